-- The three roles of a shard in PostgreSQL. The owner moves the fence and makes tables; the writer is what gateways and
-- applications use, and sees one tenant at a time; the applier puts what other regions wrote.
CREATE ROLE shop_owner LOGIN NOSUPERUSER;
CREATE ROLE shop_app LOGIN NOSUPERUSER;
CREATE ROLE shop_applier LOGIN NOSUPERUSER;
GRANT shop_app TO shop_owner;
CREATE DATABASE shop OWNER shop_owner;
