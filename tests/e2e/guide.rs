//! The guide for writers of policies, `plugins/README.md`: its first part is run as it stands, command by command, by a shell.

use std::path::Path;
use std::process::Stdio;

use portolan_tests::node;

/// The fenced `sh` blocks below a heading, up to the next one of its level.
fn commands(guide: &str, heading: &str) -> String {
    let part = guide.split(heading).nth(1).unwrap();
    let part = part.split("\n## ").next().unwrap();
    let blocks = part.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    blocks.collect()
}

/// An address that nobody has now.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn every_command_of_the_guide_works_in_its_order() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let guide = std::fs::read_to_string(root.join("plugins/README.md")).unwrap();
    let commands = commands(&guide, "\n## From nothing to production in five minutes\n");
    assert!(commands.lines().count() > 15, "{commands}");
    // This machine may be serving something on the usual ports.
    let (public, upstream) = (free_port(), free_port());
    let moved = format!(
        "portolan init gateway\nsed -i 's/:8080/:{public}/; s/:9000/:{upstream}/' gateway/portolan.toml\n"
    );
    let commands = commands
        .replace("server 9000", &format!("server {upstream}"))
        .replace(":8080", &format!(":{public}"))
        .replace("portolan init gateway\n", &moved)
        // The versions of our own lock file: they are there already.
        .replace("cd my-policy\n", "cd my-policy\ncp \"$LOCK\" .\n");
    let script = format!("set -eux\ntrap 'kill $(jobs -p); wait' EXIT\n{commands}");

    let folder = tempfile::tempdir().unwrap();
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let target = root.join("target");
    let mut shell = tokio::process::Command::new("bash");
    shell.args(["-c", &script]).current_dir(folder.path()).stdin(Stdio::null()).kill_on_drop(true);
    shell.stdout(log.try_clone().unwrap()).stderr(log);
    for notes in ["wasm-toolchain.env", "guest-tools.env"] {
        let text = std::fs::read_to_string(target.join(notes)).unwrap();
        shell.envs(text.lines().filter_map(|line| line.split_once('=')));
    }
    let path = std::env::var_os("PATH").unwrap();
    let ours = node::program().parent().unwrap().to_owned();
    let path = std::env::join_paths([ours].into_iter().chain(std::env::split_paths(&path))).unwrap();
    shell.env("PATH", path).env("LOCK", root.join("plugins/Cargo.lock"));
    shell.env("CARGO_TARGET_DIR", target.join("scaffold"));
    let status = shell.status().await.unwrap();
    let told = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(status.success(), "{told}");
    for line in ["6 passed, 0 failed", "by-user", "portolan-policy: my-policy"] {
        assert!(told.contains(line), "{line} is missing:\n{told}");
    }
}
