//! What the tree must look like: sizes, what the core may depend on. Functions are measured by clippy.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The longest source file, in lines.
const FILE_LINES_MAX: usize = 600;

/// All that the core may be built on. None of it does I/O, reads a clock or runs tasks; of tokio it takes the channels.
const CORE_DEPENDENCIES: &[&str] = &[
    "futures-core",
    "futures-macro",
    "futures-task",
    "futures-util",
    "once_cell",
    "pin-project-lite",
    "slab",
    "thiserror",
    "thiserror-impl",
    "tokio",
    "tracing",
    "tracing-attributes",
    "tracing-core",
    "xxhash-rust",
    // Only at compile time, under the procedural macros above.
    "proc-macro2",
    "quote",
    "syn",
    "unicode-ident",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

#[test]
fn the_core_depends_on_nothing_that_acts() {
    let tree = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--offline", "--locked", "-p", "steadfast-core", "--prefix", "none"])
            .args(arguments)
            .current_dir(root())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let packages = tree(&["-e", "normal", "--format", "{p}"]);
    for line in packages.lines().filter(|line| !line.is_empty()) {
        let name = line.split_whitespace().next().unwrap();
        assert!(
            name == "steadfast-core" || CORE_DEPENDENCIES.contains(&name),
            "steadfast-core must not depend on {name}"
        );
    }
    let tokio = tree(&["-e", "normal", "--format", "{p} [{f}]"]);
    let tokio = tokio.lines().find(|line| line.starts_with("tokio v")).unwrap();
    assert!(tokio.contains("[sync]"), "of tokio only `sync` doesn't tie the core to an executor: {tokio}");
}

#[test]
fn no_file_is_longer_than_a_sitting() {
    let mut long = Vec::new();
    for file in sources(root()) {
        let lines = std::fs::read_to_string(&file).unwrap().lines().count();
        if lines > FILE_LINES_MAX {
            long.push(format!("{} has {lines} lines", file.display()));
        }
    }
    assert!(long.is_empty(), "at most {FILE_LINES_MAX} lines a file: {long:#?}");
}

/// A crate's file replaces the root one, so what is shared must stand in each.
#[test]
fn core_and_sim_ban_what_is_not_deterministic() {
    for crate_name in ["core", "sim"] {
        let bans = std::fs::read_to_string(root().join(crate_name).join("clippy.toml")).unwrap();
        for banned in ["Instant::now", "SystemTime::now", "thread::spawn", "HashMap", "HashSet"] {
            assert!(bans.contains(banned), "{crate_name}/clippy.toml doesn't ban {banned}");
        }
        assert!(bans.contains("too-many-lines-threshold = 70"), "{crate_name}/clippy.toml");
    }
}

/// The Rust files of the checkout, build products left out.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(sources(&path));
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
    found
}
