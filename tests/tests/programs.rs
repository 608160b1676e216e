//! `rudderd` and `rudder` as a person meets them: real processes, their exit statuses, messages and signals.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests

use rudder_client::DType;
use rudder_daemon::config::Layers;
use rudder_import::{BookSpec, DatasetWriter, Existing, Part};
use rudder_lab::replay::Trace;
use rudder_peers::authority;
use rudder_tests::get;
use rudder_tests::process::{operator_program, program};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Longest wait for a daemon of these small datasets; reached only by one that hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder with a dataset of one partition, a certificate and a configuration.
struct Site {
    folder: tempfile::TempDir,
    admin: String,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let mut writer = DatasetWriter::create(&data, "test", 1, Existing::Refuse).unwrap();
        writer.add_book("_N", BookSpec::Ranges(&[0, 10])).unwrap();
        let mut feat = writer.add_table("feat", "_N", DType::F32, &[1]).unwrap();
        feat.write_rows(Part(0), &[0; 40]).unwrap();
        writer.close_table(feat).unwrap();
        writer.finish().unwrap();
        authority::init(folder.path(), "test", 1, false).unwrap();
        authority::issue(folder.path(), 0, folder.path(), 1, false).unwrap();
        let admin = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let text = format!(
            "[node]\nindex = 0\n[dataset]\npath = {:?}\n[local]\nsocket = {:?}\n[admin]\nlisten = \"{admin}\"\n\
             [peers]\nlisten = \"127.0.0.1:0\"\nauthority = {:?}\ncertificate = {:?}\nkey = {:?}\n",
            at("data"),
            at("rudder.sock"),
            at("ca.pem"),
            at("node-0.pem"),
            at("node-0.key"),
        );
        fs::write(folder.path().join("rudderd.toml"), text).unwrap();
        Self { folder, admin }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("rudderd.toml")
    }

    fn rudderd(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program().unwrap());
        command.arg("--config").arg(self.config()).args(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// A daemon that serves.
    fn serving(&self) -> Daemon {
        let daemon = Daemon(Some(self.rudderd(&[]).spawn().unwrap()));
        let begun = Instant::now();
        while self.ask("/readyz") != Some(200) {
            assert!(begun.elapsed() < PATIENCE, "it was never ready");
            thread::sleep(Duration::from_millis(10));
        }
        daemon
    }

    fn ask(&self, path: &str) -> Option<u16> {
        get(&format!("http://{}{path}", self.admin)).map(|answer| answer.status)
    }
}

/// A process that does not outlive its test.
struct Daemon(Option<Child>);

impl Daemon {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.0.as_ref().unwrap()), signal).unwrap();
    }

    fn is_running(&mut self) -> bool {
        self.0.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    fn output(mut self) -> Output {
        let begun = Instant::now();
        while self.is_running() {
            assert!(begun.elapsed() < PATIENCE, "it never ended");
            thread::sleep(Duration::from_millis(10));
        }
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn rudder(arguments: &[&str]) -> Output {
    Command::new(operator_program().unwrap()).args(arguments).output().unwrap()
}

#[test]
fn a_configuration_is_checked_and_printed_without_a_start() {
    let site = Site::new();
    assert_eq!(site.rudderd(&["--check"]).output().unwrap().status.code(), Some(0));
    let printed = site.rudderd(&["--print-config", "--capacity", "4GiB"]).output().unwrap();
    let text = said(&printed.stdout);
    let config = Layers::new().text(Path::new("printed"), &text).unwrap().finish().unwrap();
    assert_eq!(config.cache.capacity.to_string(), "4GiB");
    assert_eq!(config.admin.listen.to_string(), site.admin);
}

#[test]
fn a_bad_configuration_is_exit_64_and_names_who_said_it() {
    let site = Site::new();
    for (mut command, expected) in [
        (site.rudderd(&["--node-index", "first"]), "flag --node-index"),
        (site.rudderd(&["--policy", "fifo", "--check"]), "expected one of `none`, `static`, `periodic`"),
    ] {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(64));
        assert!(said(&output.stderr).contains(expected), "{}", said(&output.stderr));
    }
    let output = site.rudderd(&[]).env("RUDDER_LOCAL__SOKET", "/x").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(said(&output.stderr).contains("did you mean `local.socket`?"), "{}", said(&output.stderr));
}

#[test]
fn sigterm_drains_and_sighup_does_not() {
    let site = Site::new();
    let mut daemon = site.serving();
    assert_eq!(site.ask("/metrics"), Some(200));
    daemon.signal(Signal::HUP);
    thread::sleep(Duration::from_millis(100));
    assert!(daemon.is_running());
    daemon.signal(Signal::TERM);
    let output = daemon.output();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output.stderr));
    assert!(said(&output.stderr).contains("drained"), "{}", said(&output.stderr));
    assert!(!site.folder.path().join("rudder.sock").exists(), "the socket was left behind");
}

#[test]
fn status_answers_over_http_and_over_the_socket() {
    let site = Site::new();
    let _daemon = site.serving();
    let socket = site.folder.path().join("rudder.sock").display().to_string();
    for place in [["--admin", &site.admin], ["--socket", &socket]] {
        let raw = rudder(&["status", "--json", place[0], place[1]]);
        let status: serde_json::Value = serde_json::from_slice(&raw.stdout).unwrap();
        assert_eq!(status["node"], 0, "{status}");
        let text = said(&rudder(&["status", place[0], place[1]]).stdout);
        assert!(text.contains("feat"), "{text}");
    }
}

#[test]
fn a_second_daemon_on_the_same_port_names_address_and_key() {
    let site = Site::new();
    let _daemon = site.serving();
    let output = site.rudderd(&[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output.stderr);
    assert!(text.contains(&site.admin) && text.contains("admin.listen"), "{text}");
}

#[test]
fn the_operators_program_fails_with_1_and_wrong_usage_with_2() {
    let output = rudder(&["status", "--admin", "127.0.0.1:9"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output.stderr).contains("http://127.0.0.1:9/v1/status") && output.stdout.is_empty());
    assert_eq!(rudder(&["statsu"]).status.code(), Some(2));
}

/// Manual page and completions of the daemon are made from the library's definition of its flags.
#[test]
fn the_daemon_has_the_flags_that_its_page_tells() {
    let help = Command::new(program().unwrap()).arg("--help").output().unwrap();
    let told = <rudder_daemon::arguments::Arguments as clap::CommandFactory>::command().render_long_help();
    // Lines are broken by the width of the terminal.
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&said(&help.stdout)), words(&told.to_string()));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man").display().to_string();
    let authority = folder.path().join("ca").display().to_string();
    let trace = folder.path().join("trace").display().to_string();
    let minibatches = [vec![1, 2, 3], vec![2, 3]];
    Trace::new(10, 2, &minibatches, Vec::new(), serde_json::Map::new()).unwrap().write(Path::new(&trace)).unwrap();
    let commands: [&[&str]; 5] = [
        &["replay", &trace],
        &["completions", "bash"],
        &["man", &pages],
        &["certs", "init", "--out", &authority],
        &["bench", "fetch", "--help"],
    ];
    for arguments in commands {
        let mut command = Command::new(operator_program().unwrap());
        let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // The reading end is closed before anything can have been written, or with it unread.
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), said(&output.stderr)), (Some(0), String::new()), "{arguments:?}");
    }
}

/// What may stand before a daemon: TLS with a certificate of a private authority, and an answer to one request.
fn behind_tls(folder: &Path, answer: &'static str) -> String {
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer_key = rcgen::KeyPair::generate().unwrap();
    fs::write(folder.join("roots.pem"), authority.self_signed(&issuer_key).unwrap().pem()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &rcgen::Issuer::from_params(&authority, &issuer_key))
        .unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    let (listener, config) = (TcpListener::bind("127.0.0.1:0").unwrap(), std::sync::Arc::new(config));
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let session = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(session, stream);
            // A client that does not believe the certificate ends here.
            if stream.read(&mut [0; 4096]).is_ok() {
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
    });
    format!("https://localhost:{port}")
}

#[test]
fn a_daemon_behind_tls_answers_those_who_know_its_authority() {
    let folder = tempfile::tempdir().unwrap();
    let url = behind_tls(folder.path(), "{\"state\":\"starting\"}");
    let status = |roots: &Path| {
        let mut command = Command::new(operator_program().unwrap());
        command.args(["status", "--admin", &url]).env("SSL_CERT_FILE", roots).env("no_proxy", "*").output().unwrap()
    };
    let output = status(&folder.path().join("roots.pem"));
    assert_eq!((output.status.code(), said(&output.stdout)), (Some(0), "state  starting\n".to_owned()), "{output:?}");
    // An authority, but another one.
    authority::init(folder.path(), "other", 1, false).unwrap();
    let output = status(&folder.path().join("ca.pem"));
    let text = said(&output.stderr);
    assert!(output.status.code() == Some(1) && text.contains("certificate") && text.contains(&url), "{text}");
}

/// Every metric of a live scrape is on the page.
#[test]
fn the_page_lists_every_metric_of_a_scrape() {
    let site = Site::new();
    let _daemon = site.serving();
    let text = get(&format!("http://{}/metrics", site.admin)).unwrap().text;
    let page = include_str!("../../docs/metrics.md");
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(names.len() > 10, "{text}");
    for name in names {
        assert!(page.contains(&format!("`{name}`")), "{name} is not in docs/metrics.md");
    }
}
