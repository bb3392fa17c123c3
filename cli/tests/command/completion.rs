//! `completion`: shells accept the scripts, and bash completes by them.

use std::process::{Command as Process, Stdio};

use crate::fake::Command;

async fn script(shell: &str) -> String {
    let mut command = Command::new(&[]);
    command.env.vars.clear();
    let done = command.run(&format!("completion {shell}")).await;
    assert_eq!((done.code, done.err.as_str()), (0, ""), "no credentials are needed");
    done.out
}

/// Runs a shell over a file; none where this machine has no such shell.
fn run(shell: &str, args: &[&str], text: &str) -> Option<(bool, String)> {
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("script");
    std::fs::write(&file, text).expect("written");
    let output = Process::new(shell).args(args).arg(&file).stdin(Stdio::null()).output();
    match output {
        Ok(output) => {
            let text = [output.stdout, output.stderr].map(|o| String::from_utf8_lossy(&o).into_owned());
            Some((output.status.success(), text.concat()))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => panic!("{shell}: {e}"),
    }
}

#[tokio::test]
async fn every_shell_that_is_here_accepts_its_script() {
    for (shell, flag) in [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")] {
        let text = script(shell).await;
        for word in ["get", "apply", "field-selector"] {
            assert!(text.contains(word), "{shell}: {word}");
        }
        match run(shell, &[flag], &text) {
            Some((accepted, said)) => assert!(accepted, "{shell}: {said}"),
            None => assert_ne!(shell, "bash", "tests need bash"),
        }
    }
    assert_eq!(Command::new(&[]).run("completion tcsh").await.code, 2);
}

#[tokio::test]
async fn bash_completes_commands_kinds_and_flags() {
    let text = script("bash").await;
    for (words, expected) in [
        ("wharf ", "apply"),
        ("wharf ", "completion"),
        ("wharf get ", "replicationcontrollers"),
        ("wharf describe po", "pods"),
        ("wharf label no", "nodes"),
        ("wharf token ", "revoke"),
        ("wharf get pods --field", "--field-selector"),
        ("wharf get pods -o ", "yaml"),
        ("wharf scale rc web --rep", "--replicas"),
        ("wharf dr", "drain"),
        ("wharf drain n1 --on-deadline ", "force"),
        ("wharf --color ", "never"),
    ] {
        let parts: Vec<&str> = words.split(' ').collect();
        let test = format!(
            "{text}\nCOMP_WORDS=({})\nCOMP_CWORD={}\n_wharf wharf \"{}\" \"{}\"\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
            parts.iter().map(|p| format!("'{p}'")).collect::<Vec<_>>().join(" "),
            parts.len() - 1,
            parts[parts.len() - 1],
            parts[parts.len() - 2],
        );
        let (_, said) = run("bash", &["--norc"], &test).expect("bash");
        assert!(said.lines().any(|l| l == expected), "{words:?}: {said}");
    }
}

#[tokio::test]
async fn fish_is_told_the_kinds() {
    let text = script("fish").await;
    assert!(
        text.contains("complete -c wharf -n \"__fish_wharf_using_subcommand get\" -f -a \"nodes namespaces"),
        "{text}"
    );
}
