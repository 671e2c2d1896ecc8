-- A file as version 1 made it.
PRAGMA journal_mode = WAL;
PRAGMA application_id = 0x4C6F7667;
PRAGMA user_version = 1;

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
    ordered      INTEGER NOT NULL,    -- 1: sent to a FIFO queue
    due_at       INTEGER,             -- behind a head: what visible_at will be at the earliest
    sent_at      INTEGER NOT NULL,
    id           BLOB NOT NULL,       -- a UUID
    group_name   TEXT,
    trace_header TEXT,
    attributes   TEXT,                -- JSON
    body         BLOB                 -- null: in bodies
) STRICT;
-- `leased` is in it so that counting need not look at the rows.
CREATE INDEX messages_due ON messages (queue, visible_at, leased);
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

INSERT INTO queues (id, name, fifo, visibility_ms) VALUES (1, 'standard', 0, 30000), (2, 'fifo', 1, 30000);
INSERT INTO messages (seq, queue, visible_at, leased, nonce, attempts, ordered, due_at, sent_at, id, group_name, body)
VALUES
    (1, 1, 1000, 0, -1, 0, 0, NULL, 1000, randomblob(16), 'a', CAST('a1' AS BLOB)),
    (2, 1, 1001, 0, -1, 0, 0, NULL, 1001, randomblob(16), 'a', CAST('a2' AS BLOB)),
    (3, 1, 1002, 0, -1, 0, 0, NULL, 1002, randomblob(16), 'b', CAST('b1' AS BLOB)),
    (4, 1, 1003, 0, -1, 0, 0, NULL, 1003, randomblob(16), NULL, CAST('none' AS BLOB)),
    (5, 1, 1004, 0, -1, 0, 0, NULL, 1004, randomblob(16), '', CAST('empty' AS BLOB)),
    (6, 1, 9999999999999, 1, 77, 1, 0, NULL, 1005, randomblob(16), 'a', CAST('leased' AS BLOB)),
    (7, 1, 9999999999999, 0, -1, 0, 0, NULL, 1006, randomblob(16), 'c', CAST('delayed' AS BLOB)),
    (8, 2, 1000, 0, -1, 0, 1, NULL, 1000, randomblob(16), 'g', CAST('f1' AS BLOB)),
    (9, 2, NULL, 0, -1, 0, 1, 1000, 1000, randomblob(16), 'g', CAST('f2' AS BLOB));
INSERT INTO results (job_id, finished_at, envelope) VALUES ('job-1', 9999999999999, CAST('{}' AS BLOB));
