//! What was written is read again, and nothing else is.

use proptest::prelude::*;

use super::*;

fn backups() -> impl Strategy<Value = Backup> {
    let entry = (any::<u64>(), proptest::collection::vec(any::<u8>(), 0..40));
    let entries = proptest::collection::btree_map("[a-z/]{1,12}", entry, 0..8);
    (
        entries,
        proptest::collection::vec(any::<u8>(), 0..40),
        "[a-f0-9-]{0,36}",
    )
        .prop_map(|(entries, sealed, id)| {
            let header = Header {
                cluster: id,
                newest: u64::MAX,
                count: entries.len() as u64,
                keys: !sealed.is_empty(),
                ..Header::default()
            };
            let entries = entries.into_iter().map(|(key, (rv, value))| Entry { rv, key, value });
            Backup {
                header,
                entries: entries.collect(),
                sealed,
            }
        })
}

fn check(bytes: &[u8], piece: usize) -> Result<Header, BackupError> {
    let mut check = Check::default();
    for piece in bytes.chunks(piece) {
        check.feed(piece)?;
    }
    check.finish()
}

proptest! {
    #[test]
    fn what_was_written_is_read_in_pieces_of_any_size(backup in backups(), piece in 1..100_usize) {
        let bytes = encode(&backup).unwrap();
        prop_assert_eq!(check(&bytes, piece), Ok(backup.header.clone()));
        prop_assert_eq!(decode(&bytes), Ok(backup));
    }

    #[test]
    fn any_changed_byte_is_refused(backup in backups(), at: prop::sample::Index, bit in 0..8_u8, piece in 1..100_usize) {
        let mut bytes = encode(&backup).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(decode(&bytes).is_err(), "byte {at}");
        prop_assert!(check(&bytes, piece).is_err(), "byte {at}");
    }

    #[test]
    fn a_cut_file_is_called_so(backup in backups(), at: prop::sample::Index, piece in 1..100_usize) {
        let bytes = encode(&backup).unwrap();
        let cut = &bytes[..at.index(bytes.len())];
        let found = [decode(cut).unwrap_err(), check(cut, piece).unwrap_err()];
        for error in found {
            if cut.len() < MAGIC.len() {
                prop_assert_eq!(error, BackupError::Foreign);
            } else {
                prop_assert!(matches!(error, BackupError::Cut { have, .. } if have == cut.len() as u64), "{error}");
            }
        }
    }

    #[test]
    fn what_follows_the_end_is_refused(backup in backups(), more in proptest::collection::vec(any::<u8>(), 1..50)) {
        let mut bytes = encode(&backup).unwrap();
        bytes.extend(more);
        prop_assert_eq!(decode(&bytes), Err(BackupError::Damaged("bytes follow its end")));
    }

    #[test]
    fn no_bytes_at_all_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), ours: bool) {
        let mut all = if ours { [&MAGIC[..], &FORMAT.to_be_bytes()].concat() } else { Vec::new() };
        all.extend(bytes);
        prop_assert!(decode(&all).is_err());
    }
}

/// A file whose checksum is right although its content is not: by a fault of ours or on purpose.
fn sealed_anew(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.len() - CHECKSUM;
    let sum = ring::digest::digest(&SHA256, &bytes[..end]);
    bytes[end..].copy_from_slice(sum.as_ref());
    bytes
}

#[test]
fn a_wrong_content_under_a_right_checksum_is_refused_too() {
    let entry = |key: &str, rv| Entry {
        rv,
        key: key.into(),
        value: b"v".to_vec(),
    };
    let backup = |entries: Vec<Entry>| Backup {
        header: Header {
            newest: 5,
            ..Header::default()
        },
        entries,
        sealed: Vec::new(),
    };
    for (entries, words) in [
        (vec![entry("b", 1), entry("a", 2)], "not in order"),
        (vec![entry("a", 1), entry("a", 2)], "not in order"),
        (vec![entry("a", 6)], "newer than the whole"),
    ] {
        let error = decode(&encode(&backup(entries)).unwrap()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let good = encode(&backup(vec![entry("a", 1)])).unwrap();
    for (at, value, words) in [
        // The header's length, the key's, the value's, that of the sealed keys.
        (PREFIX, 255, "header is too long"),
        (good.len() - CHECKSUM - 4 - 1 - 4 - 8 - 1 - 1, 200, "beyond its end"),
        (good.len() - CHECKSUM - 4 - 1 - 1, 200, "beyond its end"),
        (good.len() - CHECKSUM - 1, 200, "beyond its end"),
    ] {
        let mut bytes = good.clone();
        bytes[at] = value;
        let error = decode(&sealed_anew(bytes)).unwrap_err().to_string();
        assert!(error.contains(words), "{at}: {error}");
    }
    let mut newer = good.clone();
    newer[MAGIC.len() + 3] = 2;
    let error = decode(&sealed_anew(newer)).unwrap_err();
    assert_eq!(error, BackupError::Newer { found: 2 });
    assert!(error.to_string().contains("use that release"));
    assert_eq!(decode(b"PK\x03\x04 another file"), Err(BackupError::Foreign));
}
