//! How much may be under way on one HTTP/2 connection. Used by both ends of every connection between a coordinator
//! and an agent or a command.
//!
//! Invariant: the connection's window is larger than those of all its streams together, so that streams whose bytes
//! nobody reads never use it up. With the usual windows one stalled log would: the session beside it on the same
//! connection could send no heartbeat, and a node that is well would be lost.

/// Streams that a peer may have open at a time.
pub const STREAMS: u32 = 256;

/// Bytes of one stream that may wait for its reader. On a way of 50 ms it lets 5 MB a second through.
pub const STREAM_WINDOW: u32 = 256 << 10;

/// Bytes of one connection that may wait for their readers: all streams full, and one to spare.
pub const CONNECTION_WINDOW: u32 = STREAM_WINDOW * (STREAMS + 1);

/// Most bytes in one message of a pipe: several fit into a stream's window.
pub const CHUNK: usize = 64 << 10;

/// HTTP/2 knows no larger window.
const _: () = assert!(CONNECTION_WINDOW < 1 << 31 && CHUNK * 4 <= STREAM_WINDOW as usize);
