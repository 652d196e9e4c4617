-- Keys by which clients are known. No request asks for one yet: whoever reaches the API is the tenant `default`.

CREATE TABLE api_keys (
    tenant TEXT NOT NULL REFERENCES tenants (name),
    -- By which a key is spoken of; no secret.
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    -- SHA-256 of the key, which itself is kept nowhere.
    digest BLOB NOT NULL UNIQUE,
    created_at_ms INTEGER NOT NULL,
    revoked_at_ms INTEGER,
    PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;
