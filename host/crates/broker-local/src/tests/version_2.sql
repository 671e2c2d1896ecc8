-- A file as version 2 made it.
PRAGMA journal_mode = WAL;
PRAGMA application_id = 0x4C6F7667;
PRAGMA user_version = 2;

CREATE TABLE queues (
    id            INTEGER PRIMARY KEY,
    name          TEXT NOT NULL UNIQUE,
    fifo          INTEGER NOT NULL,
    visibility_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE messages (
    seq          INTEGER PRIMARY KEY, -- order of sending
    queue        INTEGER NOT NULL,    -- queues.id
    visible_at   INTEGER,             -- ms since 1970; null: behind the head of its group
    leased       INTEGER NOT NULL,    -- 1: hidden by a lease; 0: by a delay
    nonce        INTEGER NOT NULL,    -- names the last delivery; negative: none is good
    attempts     INTEGER NOT NULL,    -- deliveries that count
    ordered      INTEGER NOT NULL,    -- 1: sent to a FIFO queue; 2: its group takes turns; 0: neither
    due_at       INTEGER,             -- behind a head: what visible_at will be at the earliest
    sent_at      INTEGER NOT NULL,
    id           BLOB NOT NULL,       -- a UUID
    group_name   TEXT,
    trace_header TEXT,
    attributes   TEXT,                -- JSON
    body         BLOB                 -- null: in bodies
) STRICT;
-- `leased` and `ordered` are in them so that counting need not look at the rows.
CREATE INDEX messages_due ON messages (queue, visible_at, leased, ordered) WHERE ordered < 2;
CREATE INDEX messages_shared ON messages (queue, visible_at, leased, ordered) WHERE ordered = 2;
CREATE INDEX messages_turns ON messages (queue, group_name, visible_at, ordered) WHERE ordered = 2;
CREATE INDEX messages_group ON messages (queue, group_name) WHERE ordered = 1;

CREATE TABLE bodies (
    seq  INTEGER PRIMARY KEY, -- messages.seq
    body BLOB NOT NULL
) STRICT;

-- Rows of the next two are made in the order in which they expire, and are replaced by new
-- ones, never changed: the oldest are the first by seq, and no index on time is needed.
CREATE TABLE results (
    seq         INTEGER PRIMARY KEY,
    job_id      TEXT NOT NULL UNIQUE,
    finished_at INTEGER NOT NULL,
    envelope    BLOB NOT NULL
) STRICT;

CREATE TABLE deduplications (
    seq              INTEGER PRIMARY KEY,
    queue            INTEGER NOT NULL,
    deduplication_id TEXT NOT NULL,
    taken_at         INTEGER NOT NULL,
    message_id       BLOB NOT NULL,
    UNIQUE (queue, deduplication_id)
) STRICT;

CREATE TABLE notes (
    seq        INTEGER PRIMARY KEY,
    job_id     TEXT NOT NULL UNIQUE,
    noted_at   INTEGER NOT NULL,
    revoked    INTEGER NOT NULL,
    percent    INTEGER,
    message    TEXT
) STRICT;
CREATE INDEX notes_revoked ON notes (revoked) WHERE revoked = 1;

INSERT INTO queues (id, name, fifo, visibility_ms) VALUES (1, 'standard', 0, 30000);
INSERT INTO messages (seq, queue, visible_at, leased, nonce, attempts, ordered, due_at, sent_at, id, group_name, body)
VALUES (1, 1, 1000, 0, -1, 0, 2, NULL, 1000, randomblob(16), 'a', CAST('a1' AS BLOB));
INSERT INTO results (job_id, finished_at, envelope) VALUES
    ('of-acme', 9999999999999, CAST('{"id":"of-acme","tenant":"acme","data":{"tenant":"other"}}' AS BLOB)),
    ('of-nobody', 9999999999999, CAST('{"id":"of-nobody","data":1}' AS BLOB)),
    ('no-json', 9999999999999, CAST('{' AS BLOB)),
    ('no-text', 9999999999999, X'FF00');
INSERT INTO notes (job_id, noted_at, revoked, percent, message) VALUES
    ('running', 9999999999999, 0, 40, 'so far'),
    ('revoked', 9999999999999, 1, NULL, NULL);
