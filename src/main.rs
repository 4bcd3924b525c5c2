//! The program: a thin command line over the library.

mod cli;

fn main() -> std::process::ExitCode {
    match cli::parse().and_then(|(cli, given)| cli::run(cli, &given)) {
        Ok(code) => code.into(),
        Err(error) => {
            cli::note(format_args!("smoothcnn: {}", smoothcnn::error::one_line(&error.to_string())));
            error.exit_code().into()
        }
    }
}
