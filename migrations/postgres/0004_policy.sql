-- The hash of the witness policy that the writer publishes by: gateways with
-- another one must not join. Empty: nobody said.
ALTER TABLE lease ADD COLUMN policy BYTEA NOT NULL DEFAULT '';
