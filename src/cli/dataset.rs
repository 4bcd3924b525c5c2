//! The flags that choose a data set.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use smoothcnn::data::source::{DataKind, FORMATS, Wanted};

/// Flags that choose a data set.
#[derive(Clone, Debug, clap::Args)]
pub struct DataArgs {
    /// Data set [default: that of the model or run, where there is one, else digits]
    #[arg(long, value_parser = formats())]
    pub data: Option<DataKind>,
    /// Folder with the data set's files, plain or .gz, under their published names [default: where the model or run had
    /// them, else data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

impl DataArgs {
    /// What the flags name.
    pub fn wanted(&self) -> Wanted {
        Wanted { data: self.data, dir: self.data_dir.clone() }
    }
}

fn formats() -> impl TypedValueParser<Value = DataKind> {
    PossibleValuesParser::new(FORMATS.iter().map(|format| PossibleValue::new(format.name()).help(format.about())))
        .map(|name| DataKind::from_name(&name).expect("the parser takes these names only"))
}
