//! The rektor command: arguments, signals, exit code. The only place that prints or exits.
#![allow(clippy::print_stderr)]

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser;
use rektor::admin::{check, setup, teardown};
use rektor::app;
use rektor::config::{Cli, Command, ConfigError, DatabaseSettings};

/// Wrong usage or configuration: clap's own status for the same.
const USAGE: u8 = 2;

/// What ends the program without success.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Admin(#[from] rektor::admin::AdminError),
    #[error(transparent)]
    App(#[from] app::AppError),
    /// Nobody reads what is printed.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
    /// The findings were printed.
    #[error("the database is not ready for Rektor")]
    Check,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("rektor: cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(cli.command));
    // Everything that must end in order has been joined; after a second signal nothing is waited for.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("rektor: {failure}");
            match failure {
                Failure::Config(_) => ExitCode::from(USAGE),
                Failure::Admin(_) | Failure::App(_) | Failure::Output(_) | Failure::Check => {
                    ExitCode::FAILURE
                }
            }
        }
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(settings) => {
            let config = settings.resolve()?;
            app::serve(config, |line| {
                if let Err(error) = print(line) {
                    tracing::warn!(%error, "nobody reads standard output");
                }
            })
            .await?;
        }
        Command::Setup { print: true, .. } => print(&setup::script())?,
        Command::Setup {
            database,
            print: false,
        } => {
            let (database, _) = database.resolve()?;
            print(&setup::run(&database.connection).await?.join("\n"))?;
        }
        Command::Teardown(settings) => {
            let (database, slot) = settings.resolve()?;
            print(&teardown::run(&database.connection, &slot).await?.join("\n"))?;
        }
        Command::Check(settings) => run_check(settings).await?,
    }
    Ok(())
}

async fn run_check(settings: DatabaseSettings) -> Result<(), Failure> {
    let (database, slot) = settings.resolve()?;
    let points = check::run(&database.connection, &slot).await;
    for point in &points {
        print(&point.to_string())?;
    }
    if points.iter().all(check::Point::is_well) {
        Ok(())
    } else {
        Err(Failure::Check)
    }
}

/// Text that ends in a line break.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.trim_end().as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}
