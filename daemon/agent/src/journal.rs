//! The journal of decisions: what was seen, who decided what and why, what the guard said, what came of it. The last
//! decisions stay in memory for `/v1/decisions`; all of them go to a file as JSON lines, which is rotated. It owns
//! those bounds. It must never stop the daemon: a full disk ends the writing, with a warning, and memory goes on.

use super::controller::{Effect, Impact};
use super::snapshot::Snapshot;
use crate::tools::{ToolAnswer, ToolCall};
use parking_lot::Mutex;
use rudder_settings::{Verdict, byte_size, within};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Version of the lines.
pub const FORMAT: u32 = 1;

/// One decision, as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Version of this line, [`FORMAT`].
    pub format: u32,
    /// Counted from 1 since the daemon started.
    pub number: u64,
    /// Milliseconds since 1970, or since the start of a replay.
    pub time_ms: u64,
    /// The node; none in a replay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<u16>,
    /// The table that was looked at; not named where only one is cached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Who was asked.
    pub controller: String,
    /// Who answered: another than `controller` where a fallback stood in.
    pub decided_by: String,
    /// What was seen.
    pub snapshot: Snapshot,
    /// What was proposed.
    pub proposed: ToolCall,
    /// Why.
    pub reason: String,
    /// What it was expected to do to the hit rate.
    pub expected: Impact,
    /// How it ended: `done`, `clamped`, `refused`, `failed`.
    pub outcome: String,
    /// What was clamped, which rule refused, or what failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Why the controller itself had no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
    /// What was carried out.
    pub call: ToolCall,
    /// What the tool answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<ToolAnswer>,
    /// Milliseconds that the controller took.
    pub latency_ms: f64,
    /// What it did, measured over the window after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<Effect>,
}

impl Decision {
    /// Whether what was proposed was done: only then does its effect say whether the expectation was right.
    #[must_use]
    pub fn was_done(&self) -> bool {
        matches!(self.outcome.as_str(), "done" | "clamped")
    }

    /// Whether what it was expected to do came true; `None` where nothing was done, or it is not known yet.
    #[must_use]
    pub fn came_true(&self) -> Option<bool> {
        self.effect.filter(|_| self.was_done()).map(|effect| effect.as_expected)
    }
}

/// Where the journal goes, and how much of it is kept; its keys belong to section `[agent]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JournalSettings {
    /// The file, as JSON lines; empty = decisions are kept in memory only.
    #[serde(rename = "journal")]
    pub path: PathBuf,
    /// Size from which a file is renamed and a new one is started.
    #[serde(rename = "journal_bytes_max", with = "byte_size")]
    pub bytes_max: u64,
    /// Files that are kept beside the one that is written, as `NAME.1` (the newest) and on.
    #[serde(rename = "journal_files_max")]
    pub files_max: u32,
    /// Decisions kept in memory for `/v1/decisions`.
    pub decisions_max: usize,
}

impl Default for JournalSettings {
    fn default() -> Self {
        Self { path: PathBuf::new(), bytes_max: 16 << 20, files_max: 4, decisions_max: 1_000 }
    }
}

impl JournalSettings {
    /// Checks the limits; opens nothing.
    ///
    /// # Errors
    /// [`Invalid`](rudder_settings::Invalid) for the first key that is out of range.
    pub fn check(&self) -> Verdict {
        within("agent.journal_bytes_max", self.bytes_max, 64 << 10..=1 << 40)?;
        within("agent.journal_files_max", self.files_max, 0..=1000)?;
        within("agent.decisions_max", self.decisions_max, 1..=1_000_000)
    }

    /// The file, if decisions are written to one.
    fn file(&self) -> Option<PathBuf> {
        Some(self.path.clone()).filter(|path| !path.as_os_str().is_empty())
    }
}

/// The last decisions, for readers; clones share them. It never writes to a disk.
#[derive(Debug, Clone, Default)]
pub struct Recent(Arc<Mutex<VecDeque<Decision>>>);

impl Recent {
    fn push(&self, decision: Decision, keep: usize) {
        let mut decisions = self.0.lock();
        while decisions.len() >= keep.max(1) {
            decisions.pop_front();
        }
        decisions.push_back(decision);
    }

    /// The last `limit` decisions, oldest first.
    #[must_use]
    pub fn last(&self, limit: usize) -> Vec<Decision> {
        let decisions = self.0.lock();
        decisions.iter().skip(decisions.len().saturating_sub(limit)).cloned().collect()
    }
}

/// The journal, open.
#[derive(Debug)]
pub struct Journal {
    settings: JournalSettings,
    recent: Recent,
    file: Option<(File, u64)>,
    /// Lines that were not written since writing failed.
    lost: u64,
}

impl Journal {
    /// Opens the journal; a file that cannot be opened is warned about, and left out.
    #[must_use]
    pub fn open(settings: JournalSettings) -> Self {
        let mut journal = Self { settings, recent: Recent::default(), file: None, lost: 0 };
        journal.reopen();
        journal
    }

    fn reopen(&mut self) {
        let Some(path) = self.settings.file() else { return };
        match OpenOptions::new().create(true).append(true).read(true).open(&path).and_then(ended) {
            Ok(open) => self.file = Some(open),
            Err(error) => self.give_up(&path, &error),
        }
    }

    fn give_up(&mut self, path: &Path, error: &io::Error) {
        tracing::warn!(path = %path.display(), %error, "the journal cannot be written: decisions stay in memory only");
        self.file = None;
    }

    /// Keeps a decision whose effect is known, or will never be.
    pub fn record(&mut self, decision: Decision) {
        self.write(&decision);
        self.recent.push(decision, self.settings.decisions_max);
    }

    fn write(&mut self, decision: &Decision) {
        let Some(path) = self.settings.file() else { return };
        let Ok(mut line) = serde_json::to_vec(decision) else { return };
        line.push(b'\n');
        if self
            .file
            .as_ref()
            .is_some_and(|(_, bytes)| *bytes > 0 && bytes + line.len() as u64 > self.settings.bytes_max)
        {
            self.file = None;
            if let Err(error) = self.rotate(&path) {
                // What cannot be put aside is not written on: it would grow without bound.
                self.lost += 1;
                return self.give_up(&path, &error);
            }
        }
        if self.file.is_none() && self.lost == 0 {
            self.reopen();
        }
        let Some((file, bytes)) = &mut self.file else {
            self.lost += 1;
            return;
        };
        // One write, so that a line is there whole or, where the disk is full, is the last.
        match file.write_all(&line) {
            Ok(()) => *bytes += line.len() as u64,
            Err(error) => {
                // What there was room for is no line; where this fails, the next daemon ends it.
                let _ = file.set_len(*bytes);
                self.lost += 1;
                self.give_up(&path, &error);
            }
        }
    }

    /// `NAME` becomes `NAME.1`, `NAME.1` becomes `NAME.2`, and so on; the oldest goes.
    fn rotate(&self, path: &Path) -> io::Result<()> {
        let numbered = |number: u32| {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        if self.settings.files_max == 0 {
            return std::fs::remove_file(path);
        }
        for number in (1..self.settings.files_max).rev() {
            match std::fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(path, numbered(1))
    }

    /// The last decisions.
    #[must_use]
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// Decisions that were not written to the file because it could not be.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

/// A journal with its length, its last line ended: a daemon that was killed, or a full disk, may have left a piece of
/// one.
fn ended(mut file: File) -> io::Result<(File, u64)> {
    let bytes = file.metadata()?.len();
    let mut last = [b'\n'];
    if bytes > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    if last == [b'\n'] {
        return Ok((file, bytes));
    }
    file.write_all(b"\n")?;
    Ok((file, bytes + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::Hold;

    fn decision(number: u64) -> Decision {
        Decision {
            format: FORMAT,
            number,
            time_ms: number,
            node: None,
            table: None,
            controller: "rules".to_owned(),
            decided_by: "rules".to_owned(),
            snapshot: Snapshot::default(),
            proposed: ToolCall::Hold(Hold {}),
            reason: "steady".to_owned(),
            expected: Impact::Same,
            outcome: "done".to_owned(),
            note: None,
            fallback: None,
            call: ToolCall::Hold(Hold {}),
            answer: None,
            latency_ms: 0.5,
            effect: None,
        }
    }

    fn numbers(path: &Path) -> Vec<u64> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str::<Decision>(line).unwrap().number).collect()
    }

    #[test]
    fn files_are_rotated_and_memory_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("decisions.jsonl");
        let line = serde_json::to_vec(&decision(1)).unwrap().len() as u64 + 1;
        let settings = JournalSettings { path: path.clone(), bytes_max: 2 * line, files_max: 2, decisions_max: 3 };
        let mut journal = Journal::open(settings.clone());
        (1..=7).for_each(|number| journal.record(decision(number)));
        assert_eq!(journal.recent().last(9).iter().map(|decision| decision.number).collect::<Vec<_>>(), [5, 6, 7]);
        assert_eq!(journal.recent().last(1)[0].number, 7);
        assert_eq!(numbers(&path), [7]);
        assert_eq!(numbers(&dir.path().join("decisions.jsonl.1")), [5, 6]);
        assert_eq!(numbers(&dir.path().join("decisions.jsonl.2")), [3, 4]);
        assert!(!dir.path().join("decisions.jsonl.3").exists());
        drop(journal);
        Journal::open(settings).record(decision(8));
        assert_eq!(numbers(&path), [7, 8], "a new daemon goes on in the same file");
    }

    #[test]
    fn a_piece_of_a_line_is_ended_before_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("decisions.jsonl");
        std::fs::write(&path, "{\"format\":1,\"num").unwrap();
        let settings = JournalSettings { path: path.clone(), bytes_max: 1 << 20, files_max: 1, decisions_max: 9 };
        Journal::open(settings.clone()).record(decision(2));
        Journal::open(settings).record(decision(3));
        let text = std::fs::read_to_string(&path).unwrap();
        let read: Vec<_> =
            text.lines().map(|line| serde_json::from_str::<Decision>(line).map(|line| line.number)).collect();
        assert!(matches!(&read[..], [Err(_), Ok(2), Ok(3)]), "{text}");
    }

    #[test]
    fn a_journal_that_cannot_be_put_aside_is_not_written_on_and_that_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("decisions.jsonl");
        // A folder with something in it stands where the old file would go.
        std::fs::create_dir_all(dir.path().join("decisions.jsonl.1").join("x")).unwrap();
        let line = serde_json::to_vec(&decision(1)).unwrap().len() as u64 + 1;
        let settings = JournalSettings { path: path.clone(), bytes_max: line, files_max: 1, decisions_max: 9 };
        let mut journal = Journal::open(settings);
        (1..=4).for_each(|number| journal.record(decision(number)));
        assert_eq!((numbers(&path), journal.lost(), journal.recent().last(9).len()), (vec![1], 3, 4));
    }

    #[test]
    fn a_full_disk_stops_the_file_and_nothing_else() {
        // What every write to it answers is "no space left on device".
        let settings =
            JournalSettings { path: PathBuf::from("/dev/full"), bytes_max: 1 << 20, files_max: 1, decisions_max: 9 };
        let mut journal = Journal::open(settings);
        (1..=3).for_each(|number| journal.record(decision(number)));
        assert_eq!((journal.recent().last(9).len(), journal.lost()), (3, 3));
    }
}
