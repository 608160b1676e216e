//! Section `[agent]`: who steers the cache, how often, and within what bounds. It composes the settings of the guard,
//! the journal, the view of the cluster and the language model, and checks them together. It must never open a file or
//! ask anybody.

use crate::cluster::ClusterSettings;
use crate::guard::GuardSettings;
use crate::journal::JournalSettings;
use crate::llm::LlmSettings;
use crate::spec::ControllerSpec;
use rudder_settings::{Capacity, Verdict, WAIT_MS, quoted, within, wrong};
use serde::{Deserialize, Serialize};

/// Section `[agent]`. The parts stand side by side in the section: no two of them have a key in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentConfig {
    /// Who decides: `rules`, `llm`, `classifier:FILE`, `schedule:N` (every N windows), `explore:SEED` (draws decisions,
    /// to train classifiers on) or `off`.
    pub controller: ControllerSpec,
    /// Length of a window, after which a decision is made, in milliseconds.
    pub window_ms: u64,
    /// Fetches after which a window ends sooner; 0 = never.
    pub window_minibatches: u64,
    /// Share of its length by which each window is made longer or shorter at random.
    pub jitter: f64,
    /// Longest wait for the controller, in milliseconds; then the rules decide.
    pub deadline_ms: u64,
    /// Rows that the agent may grow each cache to; not set = what the caches hold at the start.
    pub ceiling: Option<Capacity>,
    /// Epochs of the run, so that nothing costly is done near its end; 0 = not known.
    pub epochs: u32,
    /// What keeps a controller from doing harm.
    #[serde(flatten)]
    pub guard: GuardSettings,
    /// The record of decisions.
    #[serde(flatten)]
    pub journal: JournalSettings,
    /// Step by which a classifier learns from each of its decisions (`lr` and `mlp` only); 0 = it stays as it was
    /// trained.
    pub classifier_learning_rate: f64,
    /// The Prometheus server that scrapes the whole cluster, for the agent to see how the others are doing.
    #[serde(flatten)]
    pub cluster: ClusterSettings,
    /// The language model of controller `llm`.
    #[serde(flatten)]
    pub llm: LlmSettings,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            controller: ControllerSpec::Rules,
            window_ms: 10_000,
            window_minibatches: 0,
            jitter: 0.1,
            deadline_ms: 5_000,
            ceiling: None,
            epochs: 0,
            guard: GuardSettings::default(),
            journal: JournalSettings::default(),
            classifier_learning_rate: 0.0,
            cluster: ClusterSettings::default(),
            llm: LlmSettings::default(),
        }
    }
}

impl AgentConfig {
    /// Checks each key, and those of the section that could contradict each other.
    ///
    /// # Errors
    /// [`Invalid`](rudder_settings::Invalid) for the first key that cannot work.
    pub fn check(&self) -> Verdict {
        if self.controller == ControllerSpec::Contrary {
            let remedy = "write rules, llm, classifier:FILE, schedule:N, explore:SEED or off";
            return wrong("agent.controller", quoted(&self.controller), "for `rudder replay` only", remedy);
        }
        self.check_llm()?;
        if !(0.0..=1.0).contains(&self.classifier_learning_rate) {
            let (key, value) = ("agent.classifier_learning_rate", self.classifier_learning_rate);
            return wrong(key, value, "not from 0 to 1", "write for example 0.02");
        }
        within("agent.window_ms", self.window_ms, 10..=*WAIT_MS.end())?;
        within("agent.deadline_ms", self.deadline_ms, WAIT_MS)?;
        if !(self.jitter >= 0.0 && self.jitter < 1.0) {
            return wrong("agent.jitter", self.jitter, "not from 0 to below 1", "write a share, such as 0.1");
        }
        self.journal.check()?;
        self.check_cluster()
    }

    fn check_llm(&self) -> Verdict {
        if self.controller != ControllerSpec::Llm {
            return self.llm.check_limits();
        }
        self.llm.check()?;
        let timeout_ms = self.llm.timeout_ms;
        if self.deadline_ms < timeout_ms {
            let problem =
                format!("below agent.llm_timeout_ms, {timeout_ms}: an answer that takes longer is always late");
            let remedy = format!("write {timeout_ms} or more, or a smaller agent.llm_timeout_ms");
            return wrong("agent.deadline_ms", self.deadline_ms, problem, remedy);
        }
        Ok(())
    }

    fn check_cluster(&self) -> Verdict {
        self.cluster.check()?;
        let (timeout_ms, window_ms) = (self.cluster.timeout_ms, self.window_ms);
        if !self.cluster.url.is_empty() && timeout_ms > window_ms {
            let problem =
                format!("above agent.window_ms, {window_ms}: a server that does not answer holds up every decision");
            let remedy = format!("write {window_ms} or less, or a longer agent.window_ms");
            return wrong("agent.prometheus_timeout_ms", timeout_ms, problem, remedy);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<AgentConfig, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn keys_of_the_parts_stand_side_by_side() {
        let agent =
            read("cooldown_windows = 3\njournal = \"j\"\nllm_history = 2\nprometheus_timeout_ms = 7\n").unwrap();
        assert_eq!((agent.guard.cooldown_windows, agent.guard.rows_min), (3, GuardSettings::default().rows_min));
        assert_eq!(agent.journal.path.as_os_str(), "j");
        assert_eq!((agent.llm.history, agent.cluster.timeout_ms), (2, 7));
        assert_eq!(read(&toml::to_string(&agent).unwrap()).unwrap(), agent);
    }

    #[test]
    fn an_unknown_key_and_a_wrong_type_are_refused_in_every_part() {
        for (text, words) in [
            ("cooldwn_windows = 1\n", "unknown field `cooldwn_windows`"),
            ("rows_min = 1\n", "unknown field `rows_min`"),
            ("llm_seed = 1\n", "unknown field `llm_seed`"),
            ("llm_retries = \"two\"\n", "invalid type: string \"two\", expected u32"),
            ("journal_bytes_max = -1\n", "expected a size such as 4194304"),
            ("controller = \"explore:x\"\n", "`explore:x` is not a controller: write `rules`"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}{error}");
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        for (text, words) in [
            (
                "controller = \"llm\"\nllm_model = \"m\"\nllm_timeout_ms = 5001\n",
                "agent.deadline_ms = 5000: below agent.llm_timeout_ms, 5001",
            ),
            (
                "window_ms = 500\nprometheus_url = \"http://p:9090\"\n",
                "agent.prometheus_timeout_ms = 1000: above agent.window_ms, 500",
            ),
            ("controller = \"llm\"\n", "agent.llm_model = \"\": empty, but agent.controller is llm"),
            ("controller = \"contrary\"\n", "agent.controller = \"contrary\": for `rudder replay` only"),
        ] {
            let error = read(text).unwrap().check().unwrap_err().to_string();
            assert!(error.contains(words), "{text}{error}");
        }
        for fine in ["", "window_ms = 500\n", "llm_timeout_ms = 5001\n"] {
            assert_eq!(read(fine).unwrap().check(), Ok(()), "{fine}");
        }
    }
}
