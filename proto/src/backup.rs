//! The backup file: all entries of a store at one version, in a form that says what it is and whether it is whole. Made
//! and restored by the coordinator, checked by the command while it arrives.
//!
//! ```text
//! magic (8) · format u32 · length of the whole file u64 · length of the header u32 · header, JSON
//! entries in order of their keys: length u32, key · version u64 · length u32, value
//! length u32, sealed keys (0: none) · SHA-256 over all before (32)
//! ```
//!
//! Numbers are big-endian. Invariant: pure; a file that is cut, changed in any byte, or longer than it says is refused,
//! and what of these it is, is said.

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

/// Not text, and changed by whatever takes it for text.
const MAGIC: [u8; 8] = *b"\x89WHBK\r\n\x1a";
/// Newest format that is known.
pub const FORMAT: u32 = 1;
/// Magic, format, length.
const PREFIX: usize = 8 + 4 + 8;
const CHECKSUM: usize = 32;
/// Longest header, bytes; one of ours has about 300.
const MAX_HEADER: usize = 64 << 10;

/// What a backup is of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// UUID of the cluster.
    pub cluster: String,
    /// UUID of the state history.
    pub incarnation: String,
    /// Milliseconds since the Unix epoch.
    pub taken_at_ms: u64,
    /// The store's version that it shows.
    pub newest: u64,
    /// Release of the coordinator that made it.
    pub release: String,
    /// How many entries there are.
    pub count: u64,
    /// It has the cluster's secret, sealed under a passphrase.
    pub keys: bool,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub rv: u64,
    pub key: String,
    pub value: Vec<u8>,
}

/// A whole backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backup {
    pub header: Header,
    /// By key, each once.
    pub entries: Vec<Entry>,
    /// Empty: none.
    pub sealed: Vec<u8>,
}

/// Why bytes are no backup; whoever read them names the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    #[error("is no Wharfinger backup; name a file that `wharf cluster backup` made")]
    Foreign,
    #[error(
        "is a backup of format {found}, which a newer release made; this one knows up to {FORMAT}: use that release"
    )]
    Newer { found: u32 },
    #[error("is cut off: {have} of {want} bytes are there; fetch it again, or use another backup")]
    Cut { have: u64, want: u64 },
    #[error("is damaged: {0}; fetch it again, or use another backup")]
    Damaged(&'static str),
    #[error("cannot be made: {0}")]
    TooLarge(&'static str),
}

/// The file's bytes. The header's count and `keys` are set here; entries must be in order of their keys.
pub fn encode(backup: &Backup) -> Result<Vec<u8>, BackupError> {
    let header = Header {
        count: backup.entries.len() as u64,
        keys: !backup.sealed.is_empty(),
        ..backup.header.clone()
    };
    let header = serde_json::to_vec(&header).map_err(|_| BackupError::TooLarge("its header"))?;
    let entries: usize = backup.entries.iter().map(|e| 16 + e.key.len() + e.value.len()).sum();
    let length = PREFIX + 4 + header.len() + entries + 4 + backup.sealed.len() + CHECKSUM;
    let mut out = Vec::with_capacity(length);
    out.extend(MAGIC);
    out.extend(FORMAT.to_be_bytes());
    out.extend((length as u64).to_be_bytes());
    block(&mut out, &header)?;
    for entry in &backup.entries {
        block(&mut out, entry.key.as_bytes())?;
        out.extend(entry.rv.to_be_bytes());
        block(&mut out, &entry.value)?;
    }
    block(&mut out, &backup.sealed)?;
    let checksum = ring::digest::digest(&SHA256, &out);
    out.extend(checksum.as_ref());
    Ok(out)
}

fn block(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), BackupError> {
    let length = u32::try_from(bytes.len()).map_err(|_| BackupError::TooLarge("a value of it has more than 4 GiB"))?;
    out.extend(length.to_be_bytes());
    out.extend(bytes);
    Ok(())
}

/// Reads a whole file.
pub fn decode(bytes: &[u8]) -> Result<Backup, BackupError> {
    let mut check = Check::default();
    check.feed(bytes)?;
    let header = check.finish()?;
    let end = bytes.len().saturating_sub(CHECKSUM);
    let mut rest = Rest(bytes.get(PREFIX..end).unwrap_or_default());
    rest.block()?;
    // Nothing is reserved on the word of a count.
    let mut entries: Vec<Entry> = Vec::new();
    for _ in 0..header.count {
        let key = std::str::from_utf8(rest.block()?).map_err(|_| BackupError::Damaged("a key is no text"))?;
        let rv = u64::from_be_bytes(rest.take()?);
        let value = rest.block()?.to_vec();
        if entries.last().is_some_and(|last| last.key.as_str() >= key) {
            return Err(BackupError::Damaged("its keys are not in order"));
        }
        if rv > header.newest {
            return Err(BackupError::Damaged("an entry is newer than the whole"));
        }
        let key = key.to_owned();
        entries.push(Entry { rv, key, value });
    }
    let sealed = rest.block()?.to_vec();
    if !rest.0.is_empty() || sealed.is_empty() == header.keys {
        return Err(BackupError::Damaged("it holds something else than its header says"));
    }
    Ok(Backup {
        header,
        entries,
        sealed,
    })
}

/// What is left to read.
struct Rest<'b>(&'b [u8]);

impl<'b> Rest<'b> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BackupError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(BackupError::Damaged(SHORT))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn block(&mut self) -> Result<&'b [u8], BackupError> {
        let length = usize::try_from(u32::from_be_bytes(self.take()?)).map_err(|_| BackupError::Damaged(SHORT))?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(BackupError::Damaged(SHORT))?;
        self.0 = rest;
        Ok(taken)
    }
}

const SHORT: &str = "a length in it leads beyond its end";

/// Checks a file as its bytes come, in pieces of any size. It keeps the header and a checksum.
#[derive(Default)]
pub struct Check {
    /// What came, until the header is whole.
    head: Vec<u8>,
    header: Option<Header>,
    /// Over all but what `tail` holds.
    sum: Option<Context>,
    /// The last bytes so far, which may be the checksum.
    tail: Vec<u8>,
    have: u64,
    want: u64,
}

impl Check {
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.have += bytes.len() as u64;
        if self.header.is_none() {
            self.head.extend(bytes.iter().take(PREFIX + 4 + MAX_HEADER));
            self.begin()?;
        }
        if self.want != 0 && self.have > self.want {
            return Err(BackupError::Damaged("bytes follow its end"));
        }
        self.tail.extend(bytes);
        let done = self.tail.len().saturating_sub(CHECKSUM);
        let sum = self.sum.get_or_insert_with(|| Context::new(&SHA256));
        sum.update(self.tail.get(..done).unwrap_or_default());
        self.tail.drain(..done);
        Ok(())
    }

    /// Bytes of the whole file, once its beginning was seen.
    pub fn length(&self) -> Option<u64> {
        (self.want != 0).then_some(self.want)
    }

    fn begin(&mut self) -> Result<(), BackupError> {
        let known = self.head.len().min(MAGIC.len());
        if self.head.get(..known) != MAGIC.get(..known) {
            return Err(BackupError::Foreign);
        }
        let mut rest = Rest(self.head.get(MAGIC.len()..).unwrap_or_default());
        let Ok(format) = rest.take().map(u32::from_be_bytes) else {
            return Ok(());
        };
        match format {
            FORMAT => {}
            found if found > FORMAT => return Err(BackupError::Newer { found }),
            _ => return Err(BackupError::Damaged("its format was never released")),
        }
        let Ok(want) = rest.take().map(u64::from_be_bytes) else {
            return Ok(());
        };
        if want == 0 {
            return Err(BackupError::Damaged("it says that it has no bytes"));
        }
        self.want = want;
        let length = rest.0.first_chunk().map(|b| u32::from_be_bytes(*b));
        if length.is_some_and(|l| l as usize > MAX_HEADER) {
            return Err(BackupError::Damaged("its header is too long"));
        }
        if let Ok(header) = rest.block() {
            let header =
                serde_json::from_slice(header).map_err(|_| BackupError::Damaged("its header cannot be read"))?;
            self.header = Some(header);
            self.head = Vec::new();
        }
        Ok(())
    }

    /// At the end of the bytes: what they are a backup of.
    pub fn finish(self) -> Result<Header, BackupError> {
        // Of a file without its first bytes nobody knows what it was.
        if self.have < MAGIC.len() as u64 {
            return Err(BackupError::Foreign);
        }
        if self.have < self.want.max((PREFIX + CHECKSUM) as u64) {
            return Err(BackupError::Cut {
                have: self.have,
                want: self.want.max((PREFIX + CHECKSUM) as u64),
            });
        }
        let sum = self.sum.map(Context::finish);
        if sum.is_none_or(|sum| sum.as_ref() != self.tail) {
            return Err(BackupError::Damaged("its checksum is wrong"));
        }
        self.header
            .ok_or(BackupError::Damaged("its header leads beyond its end"))
    }
}

#[cfg(test)]
#[path = "backup_tests.rs"]
mod tests;
