//! Facts in, lines out.

use clap::Parser;

use super::facts::{DraftModel, Drafter, Format, Found, Machine, Passes, Target};
use super::*;
use crate::args::Cli;

const GIB: u64 = 1 << 30;

fn machine() -> Machine {
    Machine {
        cpu: "Cortex-A76".to_owned(),
        architecture: "aarch64".to_owned(),
        features: vec!["NEON".to_owned(), "DOTPROD".to_owned(), "LLAMAFILE".to_owned()],
        cores: 4,
        threads: 3,
        threads_why: "one for each core, less one for the apps".to_owned(),
        load: Some(0.25),
        memory_available: Some(6 * GIB),
        backends: vec!["CPU".to_owned()],
        model_folder: "/home/pi/models".to_owned(),
        disk_free: Some(20 * GIB),
        ..Machine::default()
    }
}

fn device() -> Facts {
    let model = DraftModel {
        title: "Little (500M parameters)".to_owned(),
        vocabulary_fingerprint: "0123456789abcdef".to_owned(),
        weights_bytes: GIB / 2,
        cache_bytes: GIB / 8,
        tokens_per_s: Some(50.0),
    };
    let found = Found {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: 3,
        model: "Big (70000M parameters)".to_owned(),
        vocabulary_fingerprint: "0123456789abcdef".to_owned(),
        context: 4096,
        round_trip_ms: 8.25,
        download_mbit_per_s: 93.0,
        sessions: 3,
        busy_sessions: 2,
        cells_used: 800,
        cells: 8192,
        step_ms: Some(100.0),
        rows_per_step: Some(2.5),
        ..Found::default()
    };
    Facts {
        machine: machine(),
        drafter: Some(Drafter { name: "little".to_owned(), chosen_by_user: true, model: Some(model), error: None }),
        server: Some(Server { address: "http://gpu:7600".to_owned(), is_here: false, error: None, found: Some(found) }),
        trial: Some(Trial {
            error: None,
            passes: vec![[1.0, 100.0], [5.0, 108.0]],
            plain_tokens_per_s: Some(9.5),
            drafted: 40,
            accepted: 28,
            block: 4,
        }),
        target: None,
        formats: Vec::new(),
    }
}

fn speeds(others: usize, sled: f64, plain: f64) -> Speeds {
    Speeds { others, sled: Some(sled), plain: Some(plain), device: Some(50.0) }
}

fn text(facts: Facts, expected: Vec<Speeds>) -> String {
    text::lines(&Report::new(facts, expected, Threads::Auto), false).join("\n")
}

/// The command that is recommended is one that this program takes.
fn assert_runs(text: &str) {
    let command = text.lines().last().unwrap_or_default().trim().replace("-np", "--parallel");
    assert!(Cli::try_parse_from(command.split_whitespace()).is_ok(), "{command}");
}

#[test]
fn a_device_that_is_well() {
    let text = text(device(), vec![speeds(0, 20.04, 9.5), speeds(2, 15.0, 9.0)]);
    let expected = "\
ok      processor   Cortex-A76; the engine uses NEON, DOTPROD
ok      cores       4, with a load of 0.2 in the last minute
ok      threads     3: one for each core, less one for the apps
ok      GPU         none in this build: it computes on the CPU
ok      memory      6.00 GiB available, of which weights take about 512.00 MiB and the KV cache 128.00 MiB
ok      disk        20.00 GiB free for models in /home/pi/models
ok      drafter     little: Little (500M parameters), 50.0 tokens/s
ok      server      http://gpu:7600: sled 0.1.0 with Big (70000M parameters), 4096 tokens of context
ok      link        a round trip of 8.2 ms, 93 Mbit/s down
ok      vocabulary  0123456789abcdef, on both sides
ok      load        3 sessions, 2 of them at work; 800 of 8192 tokens of its cache in use; a pass took 100 ms for 2.5 rows so far
ok      answer      9.5 tokens/s without drafts; 28 of 40 drafts accepted

tokens/s to expect (simulated from the measured):
                                                  alone  beside 2 others
  SLED: drafted here, verified there               20.0             15.0
  plain: the server decodes                         9.5              9.0
  this device alone                                50.0             50.0

drafts make it 1.67 times as fast as plain decoding, beside 2 others:
  sled device --server http://gpu:7600 --draft little";
    assert_eq!(text, expected);
    assert_runs(&text);
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() {
    let mut facts = device();
    facts.machine.features = vec!["NEON".to_owned()];
    facts.machine.unused_features = vec!["DOTPROD".to_owned(), "MATMUL_INT8".to_owned()];
    facts.machine.load = Some(3.0);
    facts.machine.memory_available = Some(GIB / 2);
    facts.machine.disk_free = Some(GIB);
    facts.machine.has_nvidia = true;
    if let Some(found) = facts.server.as_mut().and_then(|server| server.found.as_mut()) {
        found.vocabulary_fingerprint = "fedcba9876543210".to_owned();
        found.round_trip_ms = 300.0;
        found.version = "0.0.9".to_owned();
        found.cells_used = 8000;
    }
    facts.trial = Some(Trial { error: Some("the server is shutting down".to_owned()), ..Trial::default() });
    let checks = checks::of(&facts);
    let marks: Vec<(&str, Mark)> = checks.iter().map(|check| (check.name, check.mark)).collect();
    assert_eq!(
        marks,
        [
            ("processor", Mark::Problem),
            ("cores", Mark::Warning),
            ("threads", Mark::Ok),
            ("GPU", Mark::Warning),
            ("memory", Mark::Problem),
            ("disk", Mark::Warning),
            ("drafter", Mark::Ok),
            ("server", Mark::Warning),
            ("link", Mark::Warning),
            ("vocabulary", Mark::Problem),
            ("load", Mark::Warning),
            ("answer", Mark::Problem),
        ]
    );
    for check in &checks {
        assert_eq!(check.advice.is_some(), check.mark != Mark::Ok, "{check:?}");
        assert!(!check.fact.contains('\n'), "{check:?}");
    }
    let text = text(facts, Vec::new());
    assert!(
        text.contains("PROBLEM processor   Cortex-A76; the engine uses NEON, and not DOTPROD, MATMUL_INT8\n"),
        "{text}"
    );
    assert!(text.contains("-> run make build NATIVE=1: it will be several times faster"), "{text}");
    assert!(text.is_ascii(), "without a terminal there are only plain characters: {text}");
    assert_runs(&text);
}

#[test]
fn instructions_that_bring_little_are_a_warning() {
    let unused_features = vec!["AVX512".to_owned()];
    let facts = Facts { machine: Machine { unused_features, ..machine() }, ..Facts::default() };
    assert_eq!(checks::of(&facts)[0].mark, Mark::Warning);
}

#[test]
fn drafts_that_do_not_pay_are_not_recommended() {
    let text = text(device(), vec![speeds(0, 20.0, 9.5), speeds(2, 9.1, 9.0)]);
    assert!(text.ends_with("sled device --server http://gpu:7600 --draft ngram"), "{text}");
    assert!(text.contains("1.01 times as fast, beside 2 others, which does not pay"), "{text}");
    assert_runs(&text);
}

#[test]
fn without_a_server_the_draft_model_decodes_alone() {
    let mut facts = Facts { trial: None, ..device() };
    facts.server = Some(Server {
        address: "http://gpu:7600".to_owned(),
        is_here: false,
        error: Some("nobody there".to_owned()),
        found: None,
    });
    let alone = expect::of_device(&facts);
    assert_eq!(alone.ok(), Some(vec![Speeds { others: 0, sled: None, plain: None, device: Some(50.0) }]));
    let with_error = text(facts.clone(), Vec::new());
    assert!(with_error.contains("PROBLEM server      nobody there\n"), "{with_error}");
    assert!(with_error.ends_with("sled device --server none --draft little"), "{with_error}");
    assert_runs(&with_error);
    facts.server = None;
    assert!(checks::of(&facts).iter().all(|check| check.mark == Mark::Ok));
}

#[test]
fn a_server_on_the_same_machine_is_told_apart() {
    for (address, here) in [
        ("http://127.0.0.1:7600", true),
        ("localhost:7600", true),
        ("http://[::1]:7600", true),
        ("http://10.127.0.0:7600", false),
    ] {
        assert_eq!(is_here(address), here, "{address}");
    }
    let mut facts = device();
    if let Some(server) = facts.server.as_mut() {
        server.is_here = true;
    }
    let text = text(facts, vec![speeds(0, 20.0, 9.5)]);
    assert!(text.contains("share this machine's cores"), "{text}");
}

#[test]
fn without_anything_nothing_is_recommended() {
    let ngram = Drafter { name: "ngram".to_owned(), ..Drafter::default() };
    let server = Server { error: Some("nobody there".to_owned()), ..Server::default() };
    let facts = Facts { machine: machine(), drafter: Some(ngram), server: Some(server), ..Facts::default() };
    let report = Report::new(facts, Vec::new(), Threads::Auto);
    assert_eq!(report.advice, None);
}

#[test]
fn a_server_is_given_what_its_memory_holds() {
    let target = Target {
        name: "big".to_owned(),
        title: "Big".to_owned(),
        weights_bytes: 4 * GIB,
        cache_bytes: 8 * GIB,
        token_bytes: GIB / 1024,
        ctx_size: 8192,
        parallel: 16,
        passes: vec![
            Passes { threads: 2, points: vec![[1.0, 80.0], [8.0, 150.0]] },
            Passes { threads: 4, points: vec![[1.0, 90.0], [8.0, 150.0]] },
        ],
        ..Target::default()
    };
    let expected = expect::of_server(&target.passes[0], 16).unwrap_or_default();
    assert_eq!(expected.iter().map(|speeds| speeds.others).collect::<Vec<_>>(), [0, 15]);
    let facts = Facts { machine: machine(), target: Some(target), ..Facts::default() };
    let text = text(facts, expected);
    assert!(text.contains("PROBLEM memory"), "{text}");
    // 0.9 * 6 GiB - 4 GiB, at 1 MiB a token, in steps of 256 tokens.
    assert!(text.ends_with("sled serve -m big -c 1280 -np 16 -t 2 --host 0.0.0.0"), "{text}");
    assert!(text.contains("80 ms for 1, 150 ms for 8 rows, on 2 threads"), "{text}");
    assert_runs(&text);
}

#[test]
fn formats_are_shown_with_what_their_passes_take() {
    let format = |name: &str, format: &str, bytes, points: &[[f64; 2]], sled| Format {
        name: name.to_owned(),
        format: format.to_owned(),
        bytes,
        points: points.to_vec(),
        sled: Some(sled),
        plain: Some(8.25),
        error: None,
    };
    let formats = vec![
        format("b.gguf", "BF16", 3 * GIB, &[[1.0, 92.0], [4.0, 158.4], [8.0, 220.0]], 12.3),
        format("big", "Q4_K_M", GIB, &[[1.0, 39.0], [4.0, 122.0]], 10.0),
    ];
    let target = Target {
        name: "big".to_owned(),
        devices: 4,
        passes: vec![Passes { threads: 2, points: vec![[1.0, 39.0], [4.0, 122.0]] }],
        ..Target::default()
    };
    let text = text(Facts { machine: machine(), target: Some(target), formats, ..Facts::default() }, Vec::new());
    let expected = "
formats at hand, by how fast they are for 4 devices (ms of a pass by its rows, and tokens/s of each):
                size      1      4      8    plain  drafts *
  BF16      3.00 GiB     92    158    220      8.2      12.3  b
  Q4_K_M    1.00 GiB     39    122      -      8.2      10.0  big
";
    assert!(text.contains(expected), "{text}");
    assert!(text.contains("warning formats     BF16 is 1.23 times as fast as Q4_K_M for 4 devices\n"), "{text}");
    assert!(text.contains("-> serve it with -m b.gguf\n"), "{text}");
}
