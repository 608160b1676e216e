//! `rudderd`, the daemon. This file is the order of its start, top to bottom in `main`; what each step does is in the
//! library.

use clap::Parser;
use rudder_agent::{classifier::steer::ClassifierController, spec::ControllerSpec};
use rudder_daemon::{
    arguments::Arguments,
    config::{AgentConfig, Config, ConfigError, Layers},
    lifecycle::{self, Controls, Signal},
    node::{Node, StartError},
};
use rudder_telemetry::{error_chain, logging::Logging};
use std::{error::Error, io, process::ExitCode};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// Rows come and go in buffers of hundreds of kilobytes; the system's allocator would hand each back to the kernel.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit status for a configuration that cannot be used (`EX_USAGE` of sysexits.h).
const EXIT_CONFIGURATION: u8 = 64;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match configuration(&arguments) {
        Ok(config) => config,
        Err(error) => return fail(&error, EXIT_CONFIGURATION),
    };
    if arguments.print_config {
        return print(&config);
    }
    if let Err(error) = check_classifier(&config.agent) {
        return fail(&error, EXIT_CONFIGURATION);
    }
    if let Err(error) = config.peers.check_discovery() {
        return fail(&error, EXIT_CONFIGURATION);
    }
    if arguments.check {
        eprintln!("rudderd: the configuration can be used");
        return ExitCode::SUCCESS;
    }
    let logging = Logging::start(&config.log);
    // Before any TLS object is built: rustls asks the process for its provider, and panics where two could be meant.
    rudder_peers::install_tls_provider();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), node = config.node.index(), "rudderd starts");
    let controls = Controls { logging, read: Box::new(move || configuration(&arguments)) };
    match lifecycle::run(config, controls, signals, Node::start) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

/// Reads the classifier that `agent.controller` names, if it names one: the agent is started last, when trainers are
/// served already.
fn check_classifier(agent: &AgentConfig) -> Result<(), StartError> {
    if let ControllerSpec::Classifier(file) = &agent.controller {
        ClassifierController::open(file, agent.classifier_learning_rate)?;
    }
    Ok(())
}

/// Defaults, file, environment, flags: each over the one before.
fn configuration(arguments: &Arguments) -> Result<Config, ConfigError> {
    let mut layers = Layers::new();
    if let Some(path) = &arguments.config {
        layers = layers.file(path)?;
    }
    // Not `vars()`, which panics on a variable of somebody else that is not UTF-8.
    let ours =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.display().to_string())));
    layers = layers.environment(ours)?;
    let flags = [
        ("--node-index", "node.index", &arguments.node_index),
        ("--dataset", "dataset.path", &arguments.dataset),
        ("--socket", "local.socket", &arguments.socket),
        ("--admin-listen", "admin.listen", &arguments.admin_listen),
        ("--peers-listen", "peers.listen", &arguments.peers_listen),
        ("--capacity", "cache.capacity", &arguments.capacity),
        ("--policy", "cache.policy", &arguments.policy),
        ("--log-level", "log.level", &arguments.log_level),
    ];
    for (flag, key, value) in flags {
        if let Some(value) = value {
            layers = layers.flag(flag, key, value)?;
        }
    }
    layers.finish()
}

#[allow(clippy::print_stdout)] // the purpose of --print-config
fn print(config: &Config) -> ExitCode {
    match config.effective_toml() {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error, EXIT_CONFIGURATION),
    }
}

/// Turns SIGTERM and SIGINT into signals to stop, SIGHUP into one to reload.
fn signals() -> io::Result<mpsc::Receiver<Signal>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    let (requests, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        loop {
            let (name, signal) = tokio::select! {
                Some(()) = terminate.recv() => ("SIGTERM", Signal::Stop),
                Some(()) = interrupt.recv() => ("SIGINT", Signal::Stop),
                Some(()) = hangup.recv() => ("SIGHUP", Signal::Reload),
                else => return,
            };
            tracing::info!(signal = name, instruction = ?signal, "signalled");
            // A full channel holds enough: signals to stop are kept by waiting, one more to reload is not needed.
            match signal {
                Signal::Stop => _ = requests.send(signal).await,
                Signal::Reload => _ = requests.try_send(signal),
            }
        }
    });
    Ok(receiver)
}

fn fail(error: &dyn Error, status: u8) -> ExitCode {
    eprintln!("rudderd: {}", error_chain(error));
    ExitCode::from(status)
}
