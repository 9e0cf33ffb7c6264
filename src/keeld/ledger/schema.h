// The ledger's tables. The comments inside the statements are part of the database: `sqlite3
// ledger.db .schema` shows them, and reading it so while keeld runs is fine (WAL). Writing to it is
// not.
#pragma once

namespace keel {

// Rises with every change of the tables; a ledger with a higher one is refused.
inline constexpr int kLedgerSchema = 5;
// PRAGMA application_id: "KEEL". A database without it is somebody else's and is not touched.
inline constexpr int kLedgerApplication = 0x4b45454c;

// In the order of their numbers: step N makes schema N out of N - 1. Run inside one transaction.
inline constexpr const char* kLedgerSteps[kLedgerSchema] = {R"sql(
CREATE TABLE meta (            -- schema: number; id: random, made with the database; created: milliseconds since 1970
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE entries (         -- the log, append-only but for its age; read the view `history` for times as text
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,       -- milliseconds since 1970, UTC; in all tables; 0: never
    kind TEXT NOT NULL,        -- observed received decided intended applied verified outcome refused started held released ordered planned
    workload TEXT NOT NULL,    -- Kind/namespace/name; here and below '' where it does not apply
    uid TEXT NOT NULL,         -- of the workload
    container TEXT NOT NULL,
    tag TEXT NOT NULL,         -- registry/repository:name
    "from" TEXT NOT NULL,      -- digest before
    "to" TEXT NOT NULL,        -- digest after
    rollout TEXT NOT NULL,     -- id
    code TEXT NOT NULL,        -- verdict, reason, outcome or change
    cause TEXT NOT NULL,       -- who or what brought it
    text TEXT NOT NULL         -- one sentence
);
CREATE INDEX entries_at ON entries (at);
CREATE INDEX entries_workload ON entries (workload, seq) WHERE workload <> '';
CREATE INDEX entries_kind ON entries (kind, seq);

CREATE VIEW history AS
SELECT seq, strftime('%Y-%m-%dT%H:%M:%fZ', at / 1000.0, 'unixepoch') AS at, kind, workload, container,
       tag, "from", "to", rollout, code, cause, text, uid
FROM entries ORDER BY seq DESC;

CREATE TABLE sightings (       -- every digest that a tag has been seen at
    tag TEXT NOT NULL,
    digest TEXT NOT NULL,
    first_seen INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    source TEXT NOT NULL,
    first INTEGER NOT NULL,    -- 1: the first digest ever known of this tag
    confirmed INTEGER NOT NULL,  -- 1: a second source has named it
    PRIMARY KEY (tag, digest)
) WITHOUT ROWID;

CREATE TABLE tags (            -- the state of each tag as all caches together tell it
    tag TEXT PRIMARY KEY,
    current TEXT NOT NULL,
    kind TEXT NOT NULL,        -- index image
    since INTEGER NOT NULL,    -- current since
    pending TEXT NOT NULL,     -- a digest going back, unconfirmed
    pending_since INTEGER NOT NULL,
    confirmed_at INTEGER NOT NULL,  -- the last successful look at it
    confirmed_by TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE cursors (         -- how far each cache's tag table has been read
    cache TEXT PRIMARY KEY,
    epoch TEXT NOT NULL,
    seq INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE contents (        -- what a digest holds for each platform; never changes
    digest TEXT PRIMARY KEY,
    json TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE rollouts (
    n INTEGER PRIMARY KEY AUTOINCREMENT,  -- in the order of their creation
    id TEXT NOT NULL UNIQUE,
    workload TEXT NOT NULL,
    uid TEXT NOT NULL,
    ns TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    text TEXT NOT NULL,
    targets TEXT NOT NULL,     -- JSON: [{"container", "tag", "from", "to"}]
    marker_key TEXT NOT NULL,
    marker TEXT NOT NULL,      -- exactly what is written
    old_marker TEXT NOT NULL,
    cause TEXT NOT NULL,
    generation INTEGER NOT NULL,  -- of the workload after the write
    attempt INTEGER NOT NULL,
    created INTEGER NOT NULL,
    intended INTEGER NOT NULL,  -- 0: not yet; pacing counts these
    applied INTEGER NOT NULL,
    deadline INTEGER NOT NULL,
    ended INTEGER NOT NULL     -- 0: open
);
CREATE INDEX rollouts_open ON rollouts (n) WHERE ended = 0;
CREATE INDEX rollouts_ended ON rollouts (ended) WHERE ended <> 0;
CREATE INDEX rollouts_intended ON rollouts (intended) WHERE intended <> 0;
CREATE INDEX rollouts_workload ON rollouts (workload, n);

CREATE TABLE rejected (        -- failed here and is not tried again
    uid TEXT NOT NULL,
    tag TEXT NOT NULL,
    digest TEXT NOT NULL,
    workload TEXT NOT NULL,
    rollout TEXT NOT NULL,
    at INTEGER NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (uid, tag, digest)
) WITHOUT ROWID;
)sql",
                                                            R"sql(
CREATE TABLE holds (           -- what was wanted of this keeld: of each tag the newest hold
    tag TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    id TEXT NOT NULL,          -- of the action that set it
    author TEXT NOT NULL,
    reason TEXT NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER NOT NULL,    -- 0: until it is lifted
    forced INTEGER NOT NULL,   -- 1: without a check that the digest is complete
    lifted INTEGER NOT NULL,   -- 0: in force
    lifted_by TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE placed (          -- what this keeld put into each cache, or was about to
    cache TEXT NOT NULL,
    tag TEXT NOT NULL,
    digest TEXT NOT NULL,
    owner TEXT NOT NULL,       -- as the cache calls it; '' before it has said so
    verified INTEGER NOT NULL, -- last found complete through this cache
    PRIMARY KEY (cache, tag)
) WITHOUT ROWID;

ALTER TABLE tags ADD COLUMN held_at INTEGER NOT NULL DEFAULT 0;  -- a hold was last seen to begin or to end
)sql",
                                                            R"sql(
ALTER TABLE placed ADD COLUMN reason TEXT NOT NULL DEFAULT '';   -- as it was last sent, like the digest
ALTER TABLE placed ADD COLUMN until INTEGER NOT NULL DEFAULT 0;  -- as it was last sent; 0: until it is lifted
UPDATE placed SET reason = holds.reason, until = holds.until FROM holds WHERE holds.tag = placed.tag;
)sql",
                                                            R"sql(
CREATE TABLE listings (        -- the newest list of tags of each repository
    registry TEXT NOT NULL,
    repository TEXT NOT NULL,
    number INTEGER NOT NULL,   -- how many lists of it there were
    at INTEGER NOT NULL,
    complete INTEGER NOT NULL, -- 0: it was cut at a bound
    PRIMARY KEY (registry, repository)
) WITHOUT ROWID;

CREATE TABLE listed (          -- every tag that a list had
    registry TEXT NOT NULL,
    repository TEXT NOT NULL,
    name TEXT NOT NULL,
    first INTEGER NOT NULL,    -- number of the list that had it first
    gone INTEGER NOT NULL,     -- 0: the newest list has it; else since when lists lack it
    PRIMARY KEY (registry, repository, name)
) WITHOUT ROWID;
CREATE INDEX listed_gone ON listed (gone) WHERE gone <> 0;
)sql",
                                                            R"sql(
CREATE TABLE documents (       -- what the plan and people decided, and must survive a restart
    kind TEXT NOT NULL,        -- phase pause breaker exception plan
    key TEXT NOT NULL,
    json TEXT NOT NULL,
    PRIMARY KEY (kind, key)
) WITHOUT ROWID;
)sql"};

}  // namespace keel
