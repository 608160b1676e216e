//! The registry of this daemon's metrics. Each module owns its handles and gives its collectors; here they meet. There
//! is no global registry, so that two daemons in one process (tests) do not mix.

use super::{AdminError, process::ProcessCollector};
use prometheus::{IntGaugeVec, Opts, Registry, TextEncoder, core::Collector};

/// The metrics of one daemon. Clones share the registry, so that modules may be added while the interface already
/// answers.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// The content type of [`Metrics::render`]: Prometheus' text format 0.0.4.
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// A registry with `rudder_build_info` and the metrics of the process.
    ///
    /// # Errors
    /// Never for the metrics listed here; the type says what [`Metrics::register`] may answer.
    pub fn new() -> Result<Self, AdminError> {
        let metrics = Self { registry: Registry::new() };
        let build_info =
            IntGaugeVec::new(Opts::new("rudder_build_info", "Constant 1, with the version as label"), &["version"])?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics.register([Box::new(build_info) as Box<dyn Collector>, Box::new(ProcessCollector::new()?)])?;
        Ok(metrics)
    }

    /// Adds the collectors of a module.
    ///
    /// # Errors
    /// If a metric of that name is there already.
    pub fn register(&self, collectors: impl IntoIterator<Item = Box<dyn Collector>>) -> Result<(), AdminError> {
        for collector in collectors {
            self.registry.register(collector)?;
        }
        Ok(())
    }

    /// All metrics as text.
    ///
    /// # Errors
    /// If a collector offers a metric without samples or name.
    pub fn render(&self) -> Result<String, AdminError> {
        Ok(TextEncoder::new().encode_to_string(&self.registry.gather())?)
    }

    /// The names of all metrics that have samples now.
    pub fn names(&self) -> Vec<String> {
        self.registry.gather().iter().map(|family| family.name().to_owned()).collect()
    }
}
