//! `rudder import` as a person meets it: real processes, signals, pipes, and folders that are somebody else's.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests

use rudder_tests::process::operator_program;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Longest wait for an import; reached only by one that hangs.
const PATIENCE: Duration = Duration::from_secs(60);

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.at(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// An array of bytes.
    fn array(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let mut text = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({},), }}", bytes.len());
        text.push_str(&" ".repeat(117 - text.len()));
        text.push('\n');
        let header = [&b"\x93NUMPY\x01\x00"[..], &(text.len() as u16).to_le_bytes(), text.as_bytes()].concat();
        self.write(name, [header.as_slice(), bytes].concat())
    }

    /// An import for which signals mean what they mean by default, also where the tests run in the background of a
    /// shell, which has its jobs ignore SIGINT.
    fn import(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("env");
        command.arg("--default-signal=INT,TERM,HUP").arg(operator_program().unwrap());
        command.arg("import").args(arguments).current_dir(self.0.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.import(arguments).output().unwrap()
    }

    /// Hidden entries, which imports leave if they leave anything.
    fn hidden(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with('.')).collect()
    }

    /// Edges that take METIS a while.
    fn many_edges(&self) -> PathBuf {
        let mut random = fastrand::Rng::with_seed(1);
        let mut text = String::new();
        for _ in 0..400_000 {
            text.push_str(&format!("{} {}\n", random.u32(..150_000), random.u32(..150_000)));
        }
        self.write("many.txt", text)
    }

    /// An import into `out` that is stopped (SIGSTOP) in the middle of its work. One that was too fast on a busy
    /// machine is undone, and the next one is stopped.
    fn held(&self, out: &str) -> Held {
        self.many_edges();
        let before = self.hidden();
        for _ in 0..20 {
            let mut child = self.import(&["edges", "many.txt", "--out", out, "--parts", "4"]).spawn().unwrap();
            // A folder is locked, and so its process's own, by the time it has a place for the dataset.
            let is_own = |name: &String| !before.contains(name) && self.at(name).join("data").exists();
            let is_at_work = || self.hidden().iter().any(is_own);
            wait_for("a hidden folder", || is_at_work() || child.try_wait().unwrap().is_some());
            let stat = format!("/proc/{}/stat", child.id());
            let held = Held(Some(child));
            held.signal(Signal::STOP);
            // It may run on for a moment: it is stopped when the kernel says so.
            let state = || fs::read_to_string(&stat).ok()?.rsplit_once(") ")?.1.chars().next();
            wait_for("a stop", || matches!(state(), Some('T' | 'Z')));
            if is_at_work() && !self.at(out).exists() {
                return held;
            }
            drop(held);
            fs::remove_dir_all(self.at(out)).unwrap();
            for left in self.hidden().iter().filter(|name| !before.contains(name)) {
                fs::remove_dir_all(self.at(left)).unwrap();
            }
        }
        panic!("no import could be stopped at work");
    }
}

/// A process that does not outlive its test.
struct Held(Option<Child>);

impl Held {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.0.as_ref().unwrap()), signal).unwrap();
    }

    fn output(mut self) -> Output {
        let mut child = self.0.take().unwrap();
        wait_for("the end of the import", || child.try_wait().unwrap().is_some());
        child.wait_with_output().unwrap()
    }
}

impl Drop for Held {
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

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// An import that got `signal` in the middle of its work, ended.
fn signalled(signal: Signal) -> (Place, Output) {
    let place = Place::new();
    let held = place.held("ds");
    held.signal(signal);
    held.signal(Signal::CONT);
    let output = held.output();
    assert!(!output.status.success() || place.at("ds/manifest.json").exists(), "it ended without a dataset");
    (place, output)
}

#[test]
fn a_signal_leaves_nothing_behind() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        // An import that was stopped at its last step may end before the thread that waits for signals has its
        // turn.
        let (place, output) = (0..5).map(|_| signalled(signal)).find(|(_, output)| !output.status.success()).unwrap();
        assert_eq!(output.status.signal(), Some(signal.as_raw()), "{}: {}", output.status, said(&output.stderr));
        assert!(said(&output.stderr).contains("what it had written is removed"), "{}", said(&output.stderr));
        assert!(place.hidden().is_empty() && !place.at("ds").exists(), "{signal:?}: {:?}", place.hidden());
    }
}

#[test]
fn a_signal_that_was_to_be_ignored_is() {
    let place = Place::new();
    place.many_edges();
    let mut command = Command::new("sh");
    command.arg("-c").arg("trap '' INT HUP; exec \"$0\" import edges many.txt --out ds --parts 4");
    command.arg(operator_program().unwrap()).current_dir(place.0.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    wait_for("a hidden folder", || !place.hidden().is_empty() || child.try_wait().unwrap().is_some());
    let held = Held(Some(child));
    held.signal(Signal::INT);
    held.signal(Signal::HUP);
    let output = held.output();
    assert!(output.status.success() && place.at("ds/manifest.json").exists(), "{}", said(&output.stderr));
}

#[test]
fn the_next_import_removes_what_a_killed_one_left_and_nothing_else() {
    let place = Place::new();
    let held = place.held("ds");
    let running = place.hidden();
    // Another import of the same folder: the first is alive, though it does nothing.
    place.array("x.npy", &[1, 2]);
    let import = ["npy", "--table", "x=x.npy", "--out", "ds", "--parts", "1", "--force"];
    assert!(place.run(&import).status.success());
    assert_eq!(place.hidden(), running);
    held.signal(Signal::KILL);
    assert_eq!(held.output().status.signal(), Some(9));
    assert_eq!(place.hidden(), running);
    place.write(".ds.partial-mine/thesis.tex", "years of work");
    assert!(place.run(&import).status.success());
    assert_eq!(place.hidden(), [".ds.partial-mine"]);
}

#[test]
fn a_folder_that_appears_meanwhile_is_kept() {
    let place = Place::new();
    let held = place.held("late");
    place.write("late/thesis.tex", "years of work");
    held.signal(Signal::CONT);
    let output = held.output();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output.stderr).contains("late: not empty"), "{}", said(&output.stderr));
    assert_eq!(fs::read(place.at("late/thesis.tex")).unwrap(), b"years of work");
    assert!(place.hidden().is_empty());
}

#[test]
fn force_replaces_datasets_and_nothing_else() {
    let place = Place::new();
    place.array("x.npy", &[1, 2]);
    let run = |out: &str| place.run(&["npy", "--table", "x=x.npy", "--out", out, "--parts", "1", "--force"]);
    let refused = |out: &str, kept: &str, words: &str| {
        let output = run(out);
        let said = said(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(words), "{said}\nshould say {words}");
        assert_eq!(fs::read(place.at(kept)).unwrap(), b"precious");
    };
    place.write("webapp/manifest.json", "{\"name\":\"Some extension\",\"manifest_version\":3}");
    place.write("webapp/src/app.js", "precious");
    refused("webapp", "webapp/src/app.js", "not a dataset");
    place.write("other/file", "precious");
    refused("other", "other/file", "no manifest.json");
    place.write("file", "precious");
    refused("file", "file", "file: cannot read the folder");
    assert!(run("ds").status.success());
    place.write("ds/notes.txt", "precious");
    refused("ds", "ds/notes.txt", "notes.txt");
    fs::rename(place.at("ds/notes.txt"), place.at("ds/tables/x/notes.txt")).unwrap();
    refused("ds", "ds/tables/x/notes.txt", "tables/x/notes.txt");
    fs::remove_file(place.at("ds/tables/x/notes.txt")).unwrap();
    place.write("ds/.hidden/file", "precious");
    refused("ds", "ds/.hidden/file", ".hidden");
    fs::remove_dir_all(place.at("ds/.hidden")).unwrap();
    // A dataset that lacks a file is still one; a link to a dataset stays a link.
    fs::remove_file(place.at("ds/tables/x/part0.npy")).unwrap();
    std::os::unix::fs::symlink("ds", place.at("link")).unwrap();
    assert!(run("link").status.success());
    assert!(fs::symlink_metadata(place.at("link")).unwrap().is_symlink() && place.at("ds/tables/x/part0.npy").exists());
    assert!(place.hidden().is_empty(), "{:?}", place.hidden());
}

#[test]
fn pipes_and_standard_input_give_what_files_give() {
    let place = Place::new();
    let names: String = (0..20_000).map(|at| format!("v{at:06} v{:06}\n", (at + 1) % 20_000)).collect();
    place.write("names.txt", names);
    place.write("ids.txt", "0 1\n1 2\n2 3\n");
    place.write("labels.txt", "7\n8\n9\n7\n");
    place.array("feat.npy", &[5, 6, 7, 8]);
    let fingerprint = |line: &str| {
        let mut command = Command::new("bash");
        command.arg("-c").arg(format!("exec \"$0\" import {line} --name n --out ds --parts 2 --force --json"));
        let output = command.arg(operator_program().unwrap()).current_dir(place.0.path()).output().unwrap();
        let said_of = said(&output.stderr);
        assert!(output.status.success(), "{line}: {said_of}");
        let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        summary["fingerprint"].as_str().unwrap().to_owned()
    };
    for [file, piped] in [
        ["edges names.txt", "edges <(cat names.txt)"],
        ["edges names.txt", "edges - < <(cat names.txt)"],
        ["edges names.txt", "edges - < names.txt"],
        ["edges names.txt", "edges <(gzip < names.txt)"],
        [
            "edges ids.txt --labels labels.txt --table feat=feat.npy",
            "edges <(cat ids.txt) --labels <(cat labels.txt) --table feat=<(cat feat.npy)",
        ],
        ["npy --table feat=feat.npy", "npy --table feat=- < feat.npy"],
    ] {
        assert_eq!(fingerprint(file), fingerprint(piped), "{piped}");
    }
    let twice = place.run(&["edges", "-", "--labels", "-", "--out", "twice", "--parts", "1"]);
    assert!(said(&twice.stderr).contains("named twice"), "{}", said(&twice.stderr));
}

#[test]
fn the_summary_says_what_was_assumed() {
    let place = Place::new();
    place.write("e.csv", "src,dst\n0,1\n1,2\n2,3\n3,3\n1,0\n");
    place.write("l.csv", "node,label\n3,b\n0,a\n1,b\n");
    let arguments = ["edges", "e.csv", "--labels", "l.csv", "--out", "ds", "--parts", "2", "--force"];
    let text = said(&place.run(&arguments).stdout);
    let json: serde_json::Value =
        serde_json::from_slice(&place.run(&[arguments.as_slice(), &["--json"]].concat()).stdout).unwrap();
    let notes =
        json["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap()).collect::<Vec<_>>().join("\n");
    for words in [
        "e.csv:1: taken as a heading",
        "l.csv:1: taken as a heading",
        "1 that are there twice or in both directions were dropped, and 1 from a vertex to itself",
        "labels joined to vertices by id",
        "1 of 4 vertices have no label (-1)",
        "2 names of classes numbered 0 to 1",
    ] {
        assert!(text.contains(words) && notes.contains(words), "{text}\n{notes}\nshould say {words}");
    }
    let mut file = fs::OpenOptions::new().append(true).open(place.at("e.csv")).unwrap();
    file.write_all(b"0,3000000000\n").unwrap();
    let output = place.run(&arguments);
    let said = said(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("e.csv:7: the vertex id 3000000000"), "{said}");
}
