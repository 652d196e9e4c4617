-- Keys by which clients are known. No request asks for one yet: whoever reaches the API is the tenant `default`.

CREATE TABLE api_keys (
    tenant text COLLATE "C" NOT NULL REFERENCES tenants (name),
    -- By which a key is spoken of; no secret.
    id text COLLATE "C" NOT NULL,
    name text NOT NULL,
    -- SHA-256 of the key, which itself is kept nowhere.
    digest bytea NOT NULL UNIQUE,
    created_at_ms bigint NOT NULL,
    revoked_at_ms bigint,
    PRIMARY KEY (tenant, id)
);
