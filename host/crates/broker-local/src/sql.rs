//! Every statement that the broker runs, in one place, so that a test can hold each to its index.
//!
//! None of them may cost more because much is queued, delayed or done. What keeps them so:
//!
//! - A finished job leaves `messages`; history is never in the way of picking up work.
//! - `messages_due` orders what a queue holds by the time it may be delivered, and picking up
//!   reads that index from its start and stops. A lease moves a message to the lease's end, a
//!   delay to the delay's end: both are behind whatever is ready.
//! - On FIFO queues only the head of a group has a place in that order. The others have none
//!   (`visible_at` is null) until the head before them is settled, so that a long group costs a
//!   receive nothing.
//! - Messages with a group on queues that are not FIFO take turns ([`fair`](super::fair)), for which
//!   they have a second index; the others pay nothing for it, since all indexes are partial.

/// The file says that it is ours: the letters `Lovg`.
pub const APPLICATION_ID: i32 = 0x4C6F_7667;

/// The version of the schema below. Any change to it is a new version with a migration.
pub const SCHEMA_VERSION: i32 = 3;

/// The whole schema.
///
/// A large body stands in a table of its own: to renew a lease SQLite writes the message's row
/// anew, and reads all of it. Small ones stay in the row, which saves a job two look-ups.
pub const SCHEMA: &str = "
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
    job_id      TEXT NOT NULL,
    tenant      TEXT NOT NULL, -- empty: the job has none
    finished_at INTEGER NOT NULL,
    envelope    BLOB NOT NULL,
    UNIQUE (job_id, tenant)
) STRICT;

CREATE TABLE deduplications (
    seq              INTEGER PRIMARY KEY,
    queue            INTEGER NOT NULL,
    deduplication_id TEXT NOT NULL,
    taken_at         INTEGER NOT NULL,
    message_id       BLOB NOT NULL,
    UNIQUE (queue, deduplication_id)
) STRICT;
";

/// Progress and revocation of jobs. Its rows are kept like those of `results`.
pub const NOTES: &str = "
CREATE TABLE notes (
    seq        INTEGER PRIMARY KEY,
    job_id     TEXT NOT NULL,
    tenant     TEXT, -- null: revoked for every tenant
    noted_at   INTEGER NOT NULL,
    revoked    INTEGER NOT NULL,
    percent    INTEGER,
    message    TEXT,
    UNIQUE (job_id, tenant)
) STRICT;
CREATE INDEX notes_revoked ON notes (revoked) WHERE revoked = 1;
";

/// The clock of the file in this run of the machine ([`clock`](super::clock)).
pub const CLOCKS: &str = "
CREATE TABLE clock (
    id        INTEGER PRIMARY KEY CHECK (id = 1),
    boot      TEXT NOT NULL,   -- names the run of the machine
    offset_ms INTEGER NOT NULL -- the file's time less the time since the machine's start
) STRICT;
";

/// The table of notes as version 2 had it.
pub const NOTES_2: &str = "
CREATE TABLE notes (
    seq        INTEGER PRIMARY KEY,
    job_id     TEXT NOT NULL UNIQUE,
    noted_at   INTEGER NOT NULL,
    revoked    INTEGER NOT NULL,
    percent    INTEGER,
    message    TEXT
) STRICT;
CREATE INDEX notes_revoked ON notes (revoked) WHERE revoked = 1;
";

/// From version 1, in which groups took no turns. A group without a name is none.
pub const FROM_1: &str = "
DROP INDEX messages_due;
UPDATE messages SET group_name = NULL WHERE ordered = 0 AND group_name = '';
UPDATE messages SET ordered = 2 WHERE ordered = 0 AND group_name IS NOT NULL;
CREATE INDEX messages_due ON messages (queue, visible_at, leased, ordered) WHERE ordered < 2;
CREATE INDEX messages_shared ON messages (queue, visible_at, leased, ordered) WHERE ordered = 2;
CREATE INDEX messages_turns ON messages (queue, group_name, visible_at, ordered) WHERE ordered = 2;
";

/// From version 2, whose results and notes were kept by the job's id alone. A result's envelope
/// names its tenant. A note does not: progress becomes that of a job without a tenant, and a
/// revocation holds for every tenant, as it did.
pub const FROM_2: &str = "
ALTER TABLE results RENAME TO results_2;
CREATE TABLE results (
    seq         INTEGER PRIMARY KEY,
    job_id      TEXT NOT NULL,
    tenant      TEXT NOT NULL, -- empty: the job has none
    finished_at INTEGER NOT NULL,
    envelope    BLOB NOT NULL,
    UNIQUE (job_id, tenant)
) STRICT;
INSERT INTO results (seq, job_id, tenant, finished_at, envelope)
SELECT seq, job_id,
       CASE WHEN json_valid(CAST(envelope AS TEXT))
            THEN coalesce(CAST(json_extract(CAST(envelope AS TEXT), '$.tenant') AS TEXT), '')
            ELSE '' END,
       finished_at, envelope
FROM results_2 ORDER BY seq;
DROP TABLE results_2;
DROP INDEX notes_revoked;
ALTER TABLE notes RENAME TO notes_2;
";

/// The second half of [`FROM_2`], after [`NOTES`].
pub const NOTES_FROM_2: &str = "
INSERT INTO notes (seq, job_id, tenant, noted_at, revoked, percent, message)
SELECT seq, job_id, CASE revoked WHEN 1 THEN NULL ELSE '' END, noted_at, revoked, percent, message
FROM notes_2 ORDER BY seq;
DROP TABLE notes_2;
";

pub const CLOCK: &str = "SELECT boot, offset_ms FROM clock WHERE id = 1";

pub const SET_CLOCK: &str = "INSERT OR REPLACE INTO clock (id, boot, offset_ms) VALUES (1, ?1, ?2)";

pub const LAST_SENT: &str = "SELECT sent_at FROM messages ORDER BY seq DESC LIMIT 1";

pub const QUEUE: &str = "SELECT id, fifo, visibility_ms FROM queues WHERE name = ?1";

pub const QUEUES: &str = "SELECT name, fifo, visibility_ms FROM queues ORDER BY name";

pub const DECLARE: &str = "
INSERT INTO queues (name, fifo, visibility_ms) VALUES (?1, ?2, ?3)
ON CONFLICT (name) DO UPDATE SET fifo = excluded.fifo, visibility_ms = excluded.visibility_ms";

pub const INSERT: &str = "
INSERT INTO messages (queue, visible_at, leased, nonce, attempts, ordered, due_at, sent_at, id,
                      group_name, trace_header, attributes, body)
VALUES (?1, ?2, 0, -1, 0, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

pub const INSERT_BODY: &str = "INSERT INTO bodies (seq, body) VALUES (?1, ?2)";

pub const BODY: &str = "SELECT body FROM bodies WHERE seq = ?1";

pub const DELETE_BODY: &str = "DELETE FROM bodies WHERE seq = ?1";

/// The head of a group: its oldest message.
pub const GROUP_HEAD: &str = "
SELECT seq, visible_at, due_at FROM messages
WHERE queue = ?1 AND group_name = ?2 AND ordered = 1 ORDER BY seq LIMIT 1";

pub const PROMOTE: &str = "UPDATE messages SET visible_at = ?2, due_at = NULL WHERE seq = ?1";

/// True if any message is ready that takes turns by its group.
pub const ANY_SHARED: &str =
    "SELECT 1 FROM messages WHERE queue = ?1 AND ordered = 2 AND visible_at <= ?2 LIMIT 1";

/// The same of those that do not.
pub const ANY_ALONE: &str =
    "SELECT 1 FROM messages WHERE queue = ?1 AND ordered < 2 AND visible_at <= ?2 LIMIT 1";

/// The next group in the order of names, and when the first of its messages is visible.
pub const NEXT_GROUP: &str = "
SELECT group_name, visible_at FROM messages
WHERE queue = ?1 AND ordered = 2 AND group_name > ?2 ORDER BY group_name, visible_at LIMIT 1";

pub const PICK_UP: &str = "
SELECT seq, nonce, attempts, sent_at, id, group_name, trace_header, attributes, body FROM messages
WHERE queue = ?1 AND ordered < 2 AND visible_at <= ?2
ORDER BY visible_at, leased, ordered, seq LIMIT ?3 OFFSET ?4";

/// Those of one time come in the order that the index has, which is that of sending.
pub const PICK_UP_OF_GROUP: &str = "
SELECT seq, nonce, attempts, sent_at, id, group_name, trace_header, attributes, body FROM messages
WHERE queue = ?1 AND ordered = 2 AND group_name = ?5 AND visible_at <= ?2
ORDER BY visible_at LIMIT ?3 OFFSET ?4";

pub const PICK_UP_SHARED: &str = "
SELECT seq, nonce, attempts, sent_at, id, group_name, trace_header, attributes, body FROM messages
WHERE queue = ?1 AND ordered = 2 AND visible_at <= ?2 ORDER BY visible_at LIMIT ?3";

/// Messages that have been visible for long, the oldest first.
pub const OLD_MESSAGES: &str = "
SELECT seq, nonce FROM messages WHERE queue = ?1 AND ordered < 2 AND visible_at <= ?2
ORDER BY visible_at, leased, ordered, seq LIMIT ?3";

pub const OLD_MESSAGES_SHARED: &str = "
SELECT seq, nonce FROM messages WHERE queue = ?1 AND ordered = 2 AND visible_at <= ?2
ORDER BY visible_at LIMIT ?3";

pub const LEASE: &str = "
UPDATE messages SET visible_at = ?2, leased = 1, nonce = ?3, attempts = attempts + 1
WHERE seq = ?1";

pub const NEXT_VISIBLE: &str = "
SELECT visible_at FROM messages WHERE queue = ?1 AND ordered < 2 AND visible_at > ?2
ORDER BY visible_at LIMIT 1";

pub const NEXT_VISIBLE_SHARED: &str = "
SELECT visible_at FROM messages WHERE queue = ?1 AND ordered = 2 AND visible_at > ?2
ORDER BY visible_at LIMIT 1";

pub const EXTEND: &str = "
UPDATE messages SET visible_at = ?4, leased = 1 WHERE seq = ?1 AND nonce = ?2 AND queue = ?3";

pub const RELEASE: &str = "
UPDATE messages SET visible_at = ?4, leased = 0, nonce = -1, attempts = max(attempts - ?5, 0)
WHERE seq = ?1 AND nonce = ?2 AND queue = ?3";

pub const DELETE: &str = "
DELETE FROM messages WHERE seq = ?1 AND nonce = ?2 AND queue = ?3
RETURNING ordered, group_name, body IS NULL";

pub const DUPLICATE: &str = "
SELECT taken_at, message_id FROM deduplications WHERE queue = ?1 AND deduplication_id = ?2";

pub const REMEMBER: &str = "
INSERT OR REPLACE INTO deduplications (queue, deduplication_id, taken_at, message_id)
VALUES (?1, ?2, ?3, ?4)";

pub const OLD_DUPLICATES: &str = "
SELECT seq, taken_at FROM deduplications WHERE seq > 0 ORDER BY seq LIMIT ?1";

pub const FORGET_DUPLICATES: &str = "DELETE FROM deduplications WHERE seq <= ?1";

pub const KEEP_RESULT: &str = "
INSERT OR REPLACE INTO results (job_id, tenant, finished_at, envelope) VALUES (?1, ?2, ?3, ?4)";

/// A note is replaced by a new one, so that rows stay in the order in which they expire.
pub const NOTE_PROGRESS: &str = "
INSERT OR REPLACE INTO notes (job_id, tenant, noted_at, revoked, percent, message)
VALUES (?1, ?2, ?3,
        coalesce((SELECT revoked FROM notes WHERE job_id = ?1 AND tenant = ?2), 0), ?4, ?5)";

pub const NOTE_REVOKED: &str = "
INSERT OR REPLACE INTO notes (job_id, tenant, noted_at, revoked, percent, message)
VALUES (?1, ?2, ?3, 1, (SELECT percent FROM notes WHERE job_id = ?1 AND tenant = ?2),
        (SELECT message FROM notes WHERE job_id = ?1 AND tenant = ?2))";

pub const PROGRESS: &str = "SELECT percent, message FROM notes WHERE job_id = ?1 AND tenant = ?2";

pub const ANY_REVOKED: &str = "SELECT 1 FROM notes WHERE revoked = 1 LIMIT 1";

pub const IS_REVOKED: &str = "
SELECT 1 FROM notes INDEXED BY sqlite_autoindex_notes_1
WHERE job_id = ?1 AND coalesce(tenant, ?2) = ?2 AND revoked = 1";

/// The tenants that anything is kept for under an id. For people: it need not be cheap.
pub const TENANTS_OF: &str = "
SELECT tenant FROM results WHERE job_id = ?1
UNION SELECT tenant FROM notes WHERE job_id = ?1 AND tenant IS NOT NULL ORDER BY tenant";

pub const OLD_NOTES: &str = "SELECT seq, noted_at FROM notes WHERE seq > 0 ORDER BY seq LIMIT ?1";

pub const FORGET_NOTES: &str = "DELETE FROM notes WHERE seq <= ?1";

pub const RESULT: &str = "SELECT envelope FROM results WHERE job_id = ?1 AND tenant = ?2";

pub const OLD_RESULTS: &str = "
SELECT seq, finished_at FROM results WHERE seq > 0 ORDER BY seq LIMIT ?1";

pub const FORGET_RESULTS: &str = "DELETE FROM results WHERE seq <= ?1";

/// A time from the future becomes the one that its neighbour has.
pub const MEND_RESULT: &str = "UPDATE results SET finished_at = ?2 WHERE seq = ?1";
pub const MEND_DUPLICATE: &str = "UPDATE deduplications SET taken_at = ?2 WHERE seq = ?1";
pub const MEND_NOTE: &str = "UPDATE notes SET noted_at = ?2 WHERE seq = ?1";

pub const COUNT_READY: &str =
    "SELECT count(*) FROM messages WHERE queue = ?1 AND ordered < 2 AND visible_at <= ?2";

pub const COUNT_READY_SHARED: &str =
    "SELECT count(*) FROM messages WHERE queue = ?1 AND ordered = 2 AND visible_at <= ?2";

/// Nothing is behind a head but on FIFO queues.
pub const COUNT_BEHIND: &str =
    "SELECT count(*) FROM messages WHERE queue = ?1 AND ordered < 2 AND visible_at IS NULL";

pub const COUNT_HIDDEN: &str = "
SELECT count(*), coalesce(sum(leased), 0) FROM messages
WHERE queue = ?1 AND ordered < 2 AND visible_at > ?2";

pub const COUNT_HIDDEN_SHARED: &str = "
SELECT count(*), coalesce(sum(leased), 0) FROM messages
WHERE queue = ?1 AND ordered = 2 AND visible_at > ?2";

pub const BROWSE: &str = "
SELECT seq, nonce, attempts, sent_at, id, group_name, trace_header, attributes, body FROM messages
WHERE queue = ?1 AND ordered < 2 ORDER BY visible_at, leased, ordered, seq LIMIT ?2";

pub const BROWSE_SHARED: &str = "
SELECT seq, nonce, attempts, sent_at, id, group_name, trace_header, attributes, body FROM messages
WHERE queue = ?1 AND ordered = 2 ORDER BY visible_at LIMIT ?2";

/// Statements that run while jobs flow: each must find its rows by an index alone.
#[cfg(test)]
pub const HOT: &[&str] = &[
    QUEUE,
    INSERT,
    INSERT_BODY,
    BODY,
    DELETE_BODY,
    GROUP_HEAD,
    PROMOTE,
    ANY_SHARED,
    ANY_ALONE,
    NEXT_GROUP,
    PICK_UP,
    PICK_UP_OF_GROUP,
    PICK_UP_SHARED,
    OLD_MESSAGES,
    OLD_MESSAGES_SHARED,
    LEASE,
    NEXT_VISIBLE,
    NEXT_VISIBLE_SHARED,
    EXTEND,
    RELEASE,
    DELETE,
    DUPLICATE,
    REMEMBER,
    OLD_DUPLICATES,
    FORGET_DUPLICATES,
    KEEP_RESULT,
    RESULT,
    OLD_RESULTS,
    FORGET_RESULTS,
    PROGRESS,
    ANY_REVOKED,
    IS_REVOKED,
    OLD_NOTES,
    FORGET_NOTES,
    COUNT_READY,
    COUNT_READY_SHARED,
    COUNT_BEHIND,
    COUNT_HIDDEN,
    COUNT_HIDDEN_SHARED,
    BROWSE,
    BROWSE_SHARED,
];
