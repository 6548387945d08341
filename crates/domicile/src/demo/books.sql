-- Accounts whose balance is not what the operations on record add up to.
WITH moves AS (
    SELECT branch_id, account_id, amount FROM ledger
    UNION ALL
    SELECT branch_id, from_account, -amount FROM transfers
    UNION ALL
    SELECT branch_id, to_account, amount FROM transfers
), sums AS (
    SELECT branch_id, account_id, sum(amount) AS moved
    FROM moves
    GROUP BY branch_id, account_id
)
SELECT count(*)
FROM accounts
LEFT JOIN sums USING (branch_id, account_id)
WHERE balance <> $1::bigint + coalesce(moved, 0)
