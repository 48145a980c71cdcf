CREATE TABLE orders (
    tenant text NOT NULL,
    id integer NOT NULL,
    item text NOT NULL,
    status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'paid', 'cancelled')),
    PRIMARY KEY (tenant, id)
) STRICT;
