//! Texts that people read, as a whole: help, and what is said of a wrong configuration.

use crate::place::{Place, Server};

#[test]
fn help() {
    let place = Place::new();
    let mut pages = String::new();
    for command in [
        "",
        "serve",
        "worker",
        "run",
        "submit",
        "status",
        "list",
        "watch",
        "wait",
        "logs",
        "cancel",
        "retry",
        "slots",
        "queues",
        "queue",
        "queue limit",
        "doctor",
        "migrate",
        "prune",
    ] {
        let args: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let done = place.run(&args);
        assert_eq!((done.code, &*done.stderr), (0, ""));
        pages.push_str(&format!("$ steadfast {}\n{}\n", args.join(" "), done.stdout));
    }
    insta::assert_snapshot!(pages);
}

#[test]
fn wrong_configurations() {
    let mut pages = String::new();
    for config in [
        "[handlers.scan",
        "[handlers.scan]\n",
        "[handlers.scan]\nexce = [\"true\"]\n",
        "[handlers.scan]\nexec = \"true\"\n",
        "[handlers.scan]\nexec = []\n",
        "[handlers.\"a b\"]\nexec = [\"true\"]\n",
        "[handlers._run]\nexec = [\"true\"]\n",
        "[handlers.scan]\nexec = [\"true\"]\ntimeout = \"soon\"\n",
        "[handlers.scan]\nexec = [\"true\"]\ntimeout = \"0s\"\n",
        "[handlers.scan]\nexec = [\"true\"]\nattempts = 0\n",
        "[handlers.scan]\nexec = [\"true\"]\nqueue = \"a/b\"\n",
        "[handlers.notify]\nurl = \"http://127.0.0.1:9000/\"\n",
        "[queues.scans]\nrate = \"10/s\"\n",
        "[queues.scans]\nconcurrency = -1\n",
        "[server]\ntokens = [\"secret\"]\n",
        "[server]\nlisten = 7878\n",
        "[sever]\n",
        "[handlers.scan]\nexec = [\"true\"]\n[handlers.scan]\nexec = [\"false\"]\n",
    ] {
        let place = Place::with(config);
        let done = place.run(&["serve", "--listen", "127.0.0.1:0"]);
        assert_eq!(done.code, 2, "{config}: {done:?}");
        pages.push_str(&format!("{config}---\n{}\n", done.stderr));
    }
    insta::assert_snapshot!(pages);
}

/// The reference shows a configuration that is read, with what holds where nothing is said, and names every metric.
#[test]
fn the_reference_is_right() {
    use steadfast_server::config::Config;

    let reference = include_str!("../../../docs/reference.md");
    let shown = reference.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    let shown = shown.expect("it shows a configuration");
    let config = Config::parse(shown).unwrap();
    assert_eq!(config.handlers.len(), 1);
    // What is shown as what holds where nothing is said.
    let silent = Config::default();
    let said = |config: &Config| {
        let (server, kept) = (&config.server, &config.retention);
        (server.listen.clone(), server.allow_run, server.payload_bytes_max, kept.succeeded, kept.otherwise)
    };
    assert_eq!(said(&config), said(&silent));
    // Of a server that has something to tell of each.
    let place = Place::with("[handlers.echo]\nexec = [\"true\"]\n");
    let server = Server::start(&place, &[]);
    place.json(&["--server", &server.url, "submit", "echo", "--wait"]);
    let page = server.get("/metrics").text;
    let metrics: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert_eq!(metrics.len(), 10, "{page}");
    for name in metrics.iter().filter_map(|metric| metric.split(' ').next()) {
        assert!(reference.contains(&format!("`{name}")), "{name} isn't in the reference");
    }
    server.stop();
}
