CREATE ROLE app LOGIN;

CREATE TABLE branches (
    branch_id integer PRIMARY KEY,
    name text NOT NULL
);

CREATE TABLE accounts (
    branch_id integer NOT NULL REFERENCES branches,
    account_id integer NOT NULL,
    balance bigint NOT NULL,
    PRIMARY KEY (branch_id, account_id)
) WITH (fillfactor = 50);

CREATE TABLE ledger (
    op_id uuid PRIMARY KEY,
    branch_id integer NOT NULL,
    account_id integer NOT NULL,
    amount bigint NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    FOREIGN KEY (branch_id, account_id) REFERENCES accounts
);

CREATE TABLE transfers (
    op_id uuid PRIMARY KEY,
    branch_id integer NOT NULL,
    from_account integer NOT NULL,
    to_account integer NOT NULL,
    amount bigint NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    FOREIGN KEY (branch_id, from_account) REFERENCES accounts,
    FOREIGN KEY (branch_id, to_account) REFERENCES accounts
);

-- Carries no branch: a receipt belongs where its ledger entry does.
CREATE TABLE receipts (
    receipt_id uuid PRIMARY KEY,
    op_id uuid NOT NULL REFERENCES ledger
);

GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app;
