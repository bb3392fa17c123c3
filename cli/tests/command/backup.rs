//! `wharf cluster backup`: the file is whole or not there.

use std::{fs, os::unix::fs::PermissionsExt as _};

use tonic::Status;

use crate::fake::{Command, Fake};

#[tokio::test]
async fn a_backup_is_checked_and_has_its_name_only_when_it_is_whole() {
    let fake = Fake::new();
    let server = fake.serve().await;
    let command = Command::new(&[&server.address]);
    let file = command.dir.path().join("fleet.backup");
    let keep = command.dir.path().to_owned();
    // The directory outlives the command.
    let keep = tempfile::Builder::new()
        .prefix("kept")
        .tempdir_in(keep.parent().expect("a parent"))
        .expect("a directory");
    let file = keep.path().join(file.file_name().expect("a name"));
    let names = || {
        let mut names: Vec<_> = fs::read_dir(keep.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let line = format!("cluster backup {}", file.display());
    let done = command.run(&line).await;
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(
        done.out.contains("2 entries") && done.out.contains("version 7 of cluster 0f8fad5b"),
        "{}",
        done.out
    );
    assert!(
        done.err.contains("holds no keys") && done.err.contains("--with-keys"),
        "{}",
        done.err
    );
    let bytes = fs::read(&file).unwrap();
    assert_eq!(proto::backup::decode(&bytes).unwrap().entries.len(), 2);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    // There already.
    let done = Command::new(&[&server.address]).run(&line).await;
    assert_eq!(done.code, 1);
    assert!(
        done.err.contains("already exists") && done.err.contains("--force"),
        "{}",
        done.err
    );
    let forced = Command::new(&[&server.address]).run(&format!("{line} --force")).await;
    assert_eq!(forced.code, 0, "{}", forced.err);

    // Changed on the way, cut short, refused: what was there stays, and nothing lies beside it.
    for (spoil, words) in [(1_usize, "is damaged: its checksum is wrong"), (2, "is cut off")] {
        fake.state().spoil_backup = spoil;
        let done = Command::new(&[&server.address]).run(&format!("{line} --force")).await;
        assert_eq!(done.code, 1);
        assert!(done.err.contains(words), "{}", done.err);
        assert_eq!(fs::read(&file).unwrap(), bytes);
        assert_eq!(names(), ["fleet.backup"]);
    }
    fake.state().spoil_backup = 0;
    fake.state()
        .failures
        .push_back(Status::resource_exhausted("another backup is being made"));
    let done = Command::new(&[&server.address]).run(&format!("{line} --force")).await;
    assert_eq!(
        (done.code, done.err.as_str()),
        (1, "error: another backup is being made\n")
    );
    // It begins at whichever coordinator answers; nobody listens at the discard port.
    let two = Command::new(&["127.0.0.1:9", &server.address]);
    let done = two.run(&format!("{line} --force")).await;
    assert_eq!(done.code, 0, "{}", done.err);
    let nowhere = Command::new(&[&server.address])
        .run("cluster backup /nowhere/at/all.backup")
        .await;
    assert_eq!(nowhere.code, 1);
    assert!(
        nowhere.err.starts_with("error: /nowhere/at/all.backup."),
        "{}",
        nowhere.err
    );
}

#[tokio::test]
async fn keys_go_along_with_the_first_line_of_a_file() {
    let fake = Fake::new();
    let server = fake.serve().await;
    let command = Command::new(&[&server.address]);
    let pass = command.file("pass.txt", "correct horse battery\nsecond line\n");
    let file = command.dir.path().join("a.backup");
    let line = format!(
        "cluster backup {} --with-keys --passphrase-file {}",
        file.display(),
        pass.display()
    );
    let done = command.run(&line).await;
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(
        done.out.contains("with keys") && done.err.is_empty(),
        "{} {}",
        done.out,
        done.err
    );
    assert_eq!(fake.state().passphrases, ["correct horse battery"]);

    for (line, code, words) in [
        ("cluster backup F --with-keys", 2, "--passphrase-file"),
        ("cluster backup F --passphrase-file P", 2, "--with-keys"),
        (
            "cluster backup F --with-keys --passphrase-file /nowhere/p",
            1,
            "/nowhere/p",
        ),
        (
            "cluster backup F --with-keys --passphrase-file E",
            1,
            "first line is empty",
        ),
    ] {
        let command = Command::new(&[&server.address]);
        let empty = command.file("empty", "\n");
        let file = command.dir.path().join("b.backup");
        let words_of = |w: &str| match w {
            "F" => file.display().to_string(),
            "E" => empty.display().to_string(),
            w => w.to_owned(),
        };
        let line: Vec<String> = line.split(' ').map(words_of).collect();
        let done = command.run_words(line.into_iter()).await;
        assert_eq!(done.code, code, "{}", done.err);
        assert!(done.err.contains(words), "{}", done.err);
    }
}
