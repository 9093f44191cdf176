//! `pgweir run`: the proxy itself. Reads nothing but its arguments; `proxy` does the rest.

use std::process::ExitCode;

use crate::config::{Config, ConfigSource};

/// Runs until it is told to stop.
pub fn run(config: Config, source: ConfigSource) -> anyhow::Result<ExitCode> {
    crate::admin::log::init(&config.log)?;
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    control.block_on(crate::proxy::run(config, source))?;
    Ok(ExitCode::SUCCESS)
}
