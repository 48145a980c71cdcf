CREATE TABLE currencies (
    code text PRIMARY KEY,
    name text NOT NULL
);

CREATE TABLE customers (
    tenant text NOT NULL,
    id bigint NOT NULL,
    name text NOT NULL,
    email text,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, email)
);

CREATE TABLE orders (
    tenant text NOT NULL,
    id bigint NOT NULL,
    customer_id bigint NOT NULL,
    currency text NOT NULL REFERENCES currencies (code),
    status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'paid', 'shipped', 'cancelled')),
    PRIMARY KEY (tenant, id),
    FOREIGN KEY (tenant, customer_id) REFERENCES customers (tenant, id)
);

CREATE TABLE items (
    tenant text NOT NULL,
    order_id bigint NOT NULL,
    line bigint NOT NULL,
    product text NOT NULL,
    quantity bigint NOT NULL CHECK (quantity > 0),
    cents bigint NOT NULL,
    PRIMARY KEY (tenant, order_id, line),
    FOREIGN KEY (tenant, order_id) REFERENCES orders (tenant, id)
);

-- A table that a migration makes may be filled by it: the rows are the same in every copy.
INSERT INTO currencies (code, name) VALUES ('EUR', 'Euro'), ('JPY', 'Yen'), ('USD', 'US dollar');
