//! Files below a root directory, read with bounds; and texts of firmware and devices made fit to show. Used by every
//! reader of the inventory.
//!
//! Invariant: no file is read beyond a bound; a text is one line without control characters, at most
//! `limits::TEXT` bytes.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

use proto::model::hardware::limits;

/// Bytes read of a text file: more than any of them has before what we look for.
const TEXT_FILE: u64 = 64 << 10;

/// What makers leave in a field that they should have filled.
const PLACEHOLDERS: [&str; 26] = [
    "0123456789",
    "1234567890",
    "123456789",
    "asset tag",
    "chassis manufacture",
    "chassis manufacturer",
    "chassis serial number",
    "default",
    "default string",
    "empty",
    "n/a",
    "na",
    "no asset information",
    "no asset tag",
    "no dimm",
    "none",
    "not applicable",
    "not available",
    "not specified",
    "null",
    "o.e.m.",
    "system manufacturer",
    "system product name",
    "system serial number",
    "undefined",
    "unknown",
];

pub(super) struct Tree<'a>(&'a Path);

impl<'a> Tree<'a> {
    pub fn new(root: &'a Path) -> Self {
        Self(root)
    }

    /// The first `most` bytes; `None` when there is no file or it cannot be read at all.
    pub fn bytes(&self, path: &str, most: u64) -> Option<Vec<u8>> {
        let path = self.0.join(path);
        // A pipe would be waited for.
        if !fs::metadata(&path).is_ok_and(|m| m.is_file()) {
            return None;
        }
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|f| f.take(most).read_to_end(&mut bytes));
        // What came before a fault may be whole.
        (read.is_ok() || !bytes.is_empty()).then_some(bytes)
    }

    /// The whole text, what is not UTF-8 replaced.
    pub fn text(&self, path: &str) -> String {
        let bytes = self.bytes(path, TEXT_FILE).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A file of one value, fit to show; empty when absent.
    pub fn value(&self, path: &str) -> String {
        clean(&self.text(path))
    }

    /// As [`Self::value`], empty for a placeholder too.
    pub fn id(&self, path: &str) -> String {
        real(&self.text(path))
    }

    pub fn number<T: std::str::FromStr>(&self, path: &str) -> Option<T> {
        self.value(path).parse().ok()
    }

    pub fn exists(&self, path: &str) -> bool {
        self.0.join(path).exists()
    }

    /// Names in a directory, sorted, at most `most`; those that are not UTF-8 are no device's.
    pub fn names(&self, path: &str, most: usize) -> Vec<String> {
        let entries = fs::read_dir(self.0.join(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names.truncate(most);
        names
    }

    /// Last part of what a symbolic link points to: the driver of a device.
    pub fn link_name(&self, path: &str) -> String {
        let target = fs::read_link(self.0.join(path)).unwrap_or_default();
        let name = target.file_name().unwrap_or_default();
        clean(&name.to_string_lossy())
    }

    /// Where a symbolic link ends.
    pub fn resolved(&self, path: &str) -> PathBuf {
        fs::canonicalize(self.0.join(path)).unwrap_or_default()
    }
}

/// One line: blanks in a row become one, control characters go, at most `limits::TEXT` bytes.
pub(super) fn clean(text: &str) -> String {
    let mut out = String::new();
    let blank = |c: char| c.is_whitespace() || c.is_control() || c == char::REPLACEMENT_CHARACTER;
    for word in text.split(blank).filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
        if out.len() > limits::TEXT {
            break;
        }
    }
    out.truncate(out.floor_char_boundary(limits::TEXT));
    out.truncate(out.trim_end().len());
    out
}

/// [`clean`], and empty where the maker filled nothing in.
pub(super) fn real(text: &str) -> String {
    let text = clean(text);
    let lower = text.to_ascii_lowercase();
    let filler = PLACEHOLDERS.contains(&lower.as_str())
        || lower.starts_with("to be filled")
        || lower.contains("not filled")
        || lower.contains("invalid")
        // 00000000, FFFFFFFF, ........, xxxxxxxx: one sign again and again.
        || lower.chars().all(|c| lower.starts_with(c) && "0f.-_x#*".contains(c));
    if filler { String::new() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_no_serials() {
        for filler in [
            "To Be Filled By O.E.M.",
            "Not Specified",
            " None ",
            "0123456789",
            "00000000",
            "FFFFFFFF",
            "Default string",
            "System Serial Number",
            "",
            "...",
            "\u{1}\u{7f}",
        ] {
            assert_eq!(real(filler), "", "{filler:?}");
        }
        for serial in ["S3EVNX0J801234", "00000001", "0123456789A", "CZ1", "None-7"] {
            assert_eq!(real(serial), serial);
        }
    }

    #[test]
    fn texts_are_one_bounded_line() {
        assert_eq!(clean("  INTEL\0\0  SSD\tX\n"), "INTEL SSD X");
        let long = clean(&"é".repeat(500));
        assert!(long.len() <= limits::TEXT && long.len() > limits::TEXT - 2, "{long}");
        assert_eq!(clean("\u{fffd}\u{fffd} \u{1b}[31m"), "[31m");
    }
}
