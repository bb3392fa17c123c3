//! Releases and clocks; lineage and strays are tested in whole sessions.

use super::*;

#[test]
fn releases_n_minus_two_to_n() {
    for (ours, theirs, fits) in [
        ("1.4.2", "1.4.9", true),
        ("1.4.2", "1.2.0", true),
        ("1.4.2", "1.1.9", false),
        ("1.4.2", "1.5.0", false),
        ("1.4.2", "0.4.2", false),
        ("1.4.2", "2.4.2", false),
        ("0.1.0", "0.1.0", true),
        ("0.1.0", "0.0.1", true),
        ("0.1.0", "", false),
        ("0.1.0", "0.1", false),
        ("0.1.0", "0.-1.0", false),
        ("0.1.0", "0.18446744073709551615.0", false),
    ] {
        let result = check_version(ours, theirs);
        assert_eq!(result.is_ok(), fits, "{ours} {theirs}");
        if let Err(words) = result {
            assert!(words.contains(ours) && words.contains(theirs), "{words}");
        }
    }
}

#[test]
fn clocks_far_apart_are_named() {
    let most = Duration::from_secs(300);
    let ours = 1_700_000_000_000;
    assert_eq!(check_clock(ours, ours + 300_000, most), Ok(()));
    assert_eq!(check_clock(ours, ours - 300_000, most), Ok(()));
    for theirs in [ours + 300_001, ours - 300_001, 0, u64::MAX] {
        let words = check_clock(ours, theirs, most).unwrap_err();
        assert!(
            words.contains("2023-11-14T22:13:20Z") && words.contains("5m"),
            "{words}"
        );
    }
}
