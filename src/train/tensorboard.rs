//! A run's record for TensorBoard: scalars by step.
//!
//! The file is a list of records: the length n in 8 bytes, the checksum of these in 4, n bytes, their checksum in 4;
//! all numbers with the lowest byte first. The bytes of a record are a protobuf message `Event`: 1 the time in seconds,
//! 2 the step, 3 the version of the file (in the first record only), 5 a summary of values (1), each with a tag (1) and
//! a number (2). The checksum is the CRC-32C c, rotated: (c >> 15 | c << 17) + 0xa282ead8.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

use super::run_folder::{EVENTS, METRICS};
use super::saved::read_record;
use crate::fs::write_atomic;
use crate::protobuf::Message;
use crate::{Error, Result};

/// The version of the file's form, which its first record says.
const VERSION: &str = "brain.Event:2";

/// TensorBoard's file of a run.
pub(super) struct EventFile {
    path: PathBuf,
    file: File,
    /// Of the last line that has one.
    step: i64,
}

impl EventFile {
    /// The file of the run in the folder `out`, with all that its record has so far.
    pub fn of_record(out: &Path) -> Result<Self> {
        let path = out.join(EVENTS);
        let past = if out.join(METRICS).exists() { read_record(out)? } else { vec![] };
        let mut bytes = record(event().bytes(3, VERSION));
        let mut step = 0;
        for line in past {
            bytes.extend(scalars(&line, &mut step));
        }
        write_atomic(&path, &bytes)?;
        let file = File::options().append(true).open(&path).map_err(Error::io(&path))?;
        Ok(Self { path, file, step })
    }

    /// Adds a line of the record.
    pub fn add(&mut self, line: &str) -> Result<()> {
        let line = serde_json::from_str(line).unwrap_or_default();
        self.file.write_all(&scalars(&line, &mut self.step)).map_err(Error::io(&self.path))
    }
}

/// The numbers of a line of the record, a scalar each, at its step, else at `step`: `nll/train`, `nll/val`, `nll/test`;
/// `nll/step` of a single step.
fn scalars(line: &Value, step: &mut i64) -> Vec<u8> {
    *step = line["step"].as_i64().unwrap_or(*step);
    let kind = line["kind"].as_str().unwrap_or_default();
    let tag = |key: &str| {
        let set =
            ["train", "val", "test"].into_iter().find_map(|set| Some((key.strip_prefix(set)?.strip_prefix('_')?, set)));
        match (kind, set) {
            ("step" | "test", _) => format!("{key}/{kind}"),
            (_, Some((measure, set))) => format!("{measure}/{set}"),
            (_, None) => key.into(),
        }
    };
    let of_place = ["kind", "epoch", "step", "epochs", "images", "seconds"];
    let numbers = line.as_object().into_iter().flatten().filter(|(key, _)| !of_place.contains(&key.as_str()));
    let values = numbers.filter_map(|(key, value)| Some((tag(key), value.as_f64()? as f32)));
    let summary = Message::default()
        .each(values, |summary, (tag, value)| summary.message(1, Message::default().bytes(1, tag).float(2, value)));
    record(event().int(2, *step).message(5, summary))
}

/// An event of now.
fn event() -> Message {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Message::default().double(1, now.as_secs_f64())
}

fn record(event: Message) -> Vec<u8> {
    let bytes = event.into_bytes();
    let length = (bytes.len() as u64).to_le_bytes();
    [&length[..], &checksum(&length), &bytes, &checksum(&bytes)].concat()
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// CRC-32C (Castagnoli), bit by bit: there are few bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), bit))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, appendix B.4: 32 zeros, 32 times 255; and the usual check value.
    #[test]
    fn the_checksum_is_crc_32c() {
        assert_eq!(
            [crc32c(&[0; 32]), crc32c(&[255; 32]), crc32c(b"123456789")],
            [0x8a91_36aa, 0x62a8_ab43, 0xe306_9283]
        );
    }

    #[test]
    fn measures_have_tags_by_set_and_what_is_no_number_has_none() {
        let line = serde_json::json!({ "kind": "epoch", "epoch": 2, "step": 10, "train_nll": 0.5, "val_ece": null });
        let mut step = 3;
        let bytes = scalars(&line, &mut step);
        let holds = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        assert!(holds(b"nll/train") && !holds(b"ece") && step == 10);
        // The test set's line has no step: it stands at the last one.
        let bytes = scalars(&serde_json::json!({ "kind": "test", "accuracy": 0.9 }), &mut step);
        assert!(bytes.windows(13).any(|window| window == b"accuracy/test") && step == 10);
    }
}
