//! One file from one of several mirrors: whole, and with the right sum, or not at all.
//!
//! What arrives is kept in a file beside it, `NAME.part`, until all of it is there: a download that ends early goes on
//! with the rest. Nothing tells whether that is the rest of the same file but the sum in the end; where it is wrong,
//! all is asked for once more.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use smoothcnn::fs::put_in_place;
use smoothcnn::{Error, Result, input};
use ureq::Agent;
use ureq::http::{Response, header};

/// A file as it is published.
#[derive(Debug)]
pub struct Published {
    pub name: &'static str,
    pub bytes: u64,
    /// In hexadecimal digits.
    pub sha256: &'static str,
}

/// How long a server may take, and how often it is asked.
#[derive(Clone, Debug)]
pub struct Patience {
    /// To be reached.
    pub connect: Duration,
    /// To say nothing, before the answer and within it.
    pub silence: Duration,
    /// Between two attempts.
    pub pause: Duration,
    /// Attempts that bring nothing new.
    pub attempts: usize,
}

impl Default for Patience {
    fn default() -> Self {
        let [connect, silence, pause] = [20, 30, 1].map(Duration::from_secs);
        Self { connect, silence, pause, attempts: 3 }
    }
}

/// Attempts at one mirror, whatever they bring: a server may send a byte each time.
const MOST_ATTEMPTS: usize = 100;

/// How a download ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    AlreadyThere,
    Fetched,
}

/// A file that is wanted.
pub struct Download<'a> {
    pub file: &'a Published,
    /// Addresses of folders, in the order in which they are asked.
    pub mirrors: &'a [&'a str],
    pub folder: &'a Path,
    pub patience: &'a Patience,
}

/// Why a mirror did not give the file.
enum Failure {
    /// It may go on: the connection broke, the server was silent or busy.
    Broken(String),
    /// The server has no such file.
    Refused(String),
    /// What it has is another file.
    Other(String),
    /// Something here, such as a full disk: no other mirror would help.
    Here(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Here(error)
    }
}

impl Download<'_> {
    /// Downloads the file, unless it is there. `progress` is told how many bytes are there, `note` what goes wrong on
    /// the way.
    ///
    /// # Errors
    /// [`Error::Data`] where another file is at its place, or no mirror has this one; [`Error::Io`] where no mirror
    /// answers, or the system fails; [`Error::InUse`] where another process downloads it.
    pub fn run(&self, progress: &dyn Fn(u64), note: &dyn Fn(&str)) -> Result<Outcome> {
        let Self { file, folder, patience, .. } = self;
        let target = folder.join(file.name);
        if fs::symlink_metadata(&target).is_ok() {
            if is_whole(&target, file)? {
                return Ok(Outcome::AlreadyThere);
            }
            let found = seems(&target)?;
            let message = format!("found {found}, expected {}; it is left as it is: move it away", file.seems());
            return Err(Error::data(target, message));
        }
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let mut part = Part::open(folder.join(format!("{}.part", file.name)), file)?;
        let mut agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(patience.connect))
            .timeout_recv_response(Some(patience.silence))
            .timeout_per_read(Some(patience.silence))
            .user_agent(concat!("smoothcnn/", env!("CARGO_PKG_VERSION")));
        if cfg!(test) {
            agent = agent.proxy(None);
        }
        let agent = Agent::new_with_config(agent.build());
        let (mut failed, mut is_other) = (vec![], false);
        for mirror in self.mirrors {
            let url = format!("{}/{}", mirror.trim_end_matches('/'), file.name);
            let why = match self.from(&agent, &url, &mut part, progress, note) {
                Ok(()) => {
                    part.finish(&target)?;
                    return Ok(Outcome::Fetched);
                }
                Err(Failure::Here(error)) => return Err(error),
                Err(Failure::Other(why)) => {
                    is_other = true;
                    why
                }
                Err(Failure::Broken(why) | Failure::Refused(why)) => why,
            };
            failed.push((url, why));
        }
        let kept = part.leave()?;
        let mut failed = failed.into_iter();
        let (url, mut message) = failed.next().unwrap_or_default();
        failed.for_each(|(url, why)| message += &format!("; {url}: {why}"));
        if let Some((path, bytes)) = kept {
            message += &format!("; {bytes} bytes are kept in {}: start again to go on", path.display());
        }
        Err(match is_other {
            true => Error::data(url, message),
            false => Error::Io { path: url.into(), source: std::io::Error::other(message) },
        })
    }

    /// Fills the part from one mirror, and checks its sum.
    fn from(
        &self,
        agent: &Agent,
        url: &str,
        part: &mut Part,
        progress: &dyn Fn(u64),
        note: &dyn Fn(&str),
    ) -> Result<(), Failure> {
        let Self { file, patience, .. } = self;
        // Of one answer, and not of several that may be of several files.
        let mut is_of_one = part.bytes == 0;
        let (mut idle, mut afresh) = (0, false);
        for _ in 0..MOST_ATTEMPTS {
            let before = part.bytes;
            if before < file.bytes {
                match self.attempt(agent, url, part, progress) {
                    Ok(begun) => is_of_one = begun == 0,
                    Err(Failure::Broken(why)) => {
                        idle = if part.bytes > before { 0 } else { idle + 1 };
                        if idle >= patience.attempts {
                            return Err(Failure::Broken(why));
                        }
                        note(&format!("{url}: {why}; trying again"));
                        std::thread::sleep(patience.pause);
                        continue;
                    }
                    Err(other) => return Err(other),
                }
            }
            let found = part.sha256()?;
            if found == file.sha256 {
                return Ok(());
            }
            part.clear()?;
            if is_of_one || afresh {
                let found = format!("found a file with SHA-256 {}…", &found[..12]);
                return Err(Failure::Other(format!("{found}, expected {}", file.seems())));
            }
            note(&format!("{url}: what was there and what came are not of one file; downloading it anew"));
            afresh = true;
        }
        Err(Failure::Broken(format!("found the connection broken {MOST_ATTEMPTS} times, expected {}", file.seems())))
    }

    /// Asks for what is missing, and says at which byte the answer began.
    fn attempt(&self, agent: &Agent, url: &str, part: &mut Part, progress: &dyn Fn(u64)) -> Result<u64, Failure> {
        let Self { file, .. } = self;
        let expected = file.bytes;
        let mut request = agent.get(url);
        if part.bytes > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", part.bytes));
        }
        let answer = request.call().map_err(|error| Failure::Broken(format!("{error}, expected {expected} bytes")))?;
        let status = answer.status().as_u16();
        let (begun, announced) = match status {
            // All of it, though the rest may have been asked for.
            200 => (Some(0), number(&answer, header::CONTENT_LENGTH.as_str())),
            206 => range(&answer),
            // There are fewer bytes than are here: this is the part of another file.
            416 => {
                part.clear()?;
                return Err(Failure::Broken("found HTTP status 416, expected the rest of the file".into()));
            }
            _ => {
                let message = format!("found HTTP status {status}, expected the file");
                let is_busy = status >= 500 || [408, 429].contains(&status);
                return Err(if is_busy { Failure::Broken(message) } else { Failure::Refused(message) });
            }
        };
        if let Some(announced) = announced.filter(|announced| *announced != expected) {
            return Err(Failure::Other(format!("found a file of {announced} bytes, expected {}", file.seems())));
        }
        let begun = match begun {
            Some(0) => {
                part.clear()?;
                0
            }
            Some(begun) if begun == part.bytes => begun,
            _ => {
                let message = format!("found an answer that begins elsewhere, expected byte {}", part.bytes);
                part.clear()?;
                return Err(Failure::Broken(message));
            }
        };
        let mut body = answer.into_body().into_reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let n = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) => {
                    let found = format!("found {} of {expected} bytes, then {error}", part.bytes);
                    return Err(Failure::Broken(format!("{found}, expected all of them")));
                }
            };
            if part.bytes + n as u64 > expected {
                part.clear()?;
                return Err(Failure::Other(format!("found more than {expected} bytes, expected {}", file.seems())));
            }
            part.add(&buffer[..n])?;
            progress(part.bytes);
        }
        match part.bytes == expected {
            true => Ok(begun),
            false => {
                let found = part.bytes;
                Err(Failure::Broken(format!("found {found} bytes, then the end, expected {expected}")))
            }
        }
    }
}

/// A header that is a number.
fn number<B>(answer: &Response<B>, name: &str) -> Option<u64> {
    answer.headers().get(name)?.to_str().ok()?.trim().parse().ok()
}

/// Of `Content-Range: bytes 5-9/10` the first byte, and how many the whole file has, where the server says it.
fn range<B>(answer: &Response<B>) -> (Option<u64>, Option<u64>) {
    let text = answer.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (bytes, all) = text.trim().trim_start_matches("bytes").split_once('/').unwrap_or_default();
    let start = bytes.split('-').next().and_then(|start| start.trim().parse().ok());
    (start, all.trim().parse().ok())
}

/// What has arrived of a file.
struct Part {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Part {
    /// Opens the part of a download that ended early, or begins one. While it is open no other process writes to it.
    fn open(path: PathBuf, of: &Published) -> Result<Self> {
        if fs::symlink_metadata(&path).is_ok() {
            input::open(&path, "a part of a download")?;
        }
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(Error::io(&path))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(Error::InUse { path, holder: "another download".into() });
            }
            // Some file systems have no locks.
            Err(TryLockError::Error(_)) | Ok(()) => {}
        }
        let bytes = file.metadata().map_err(Error::io(&path))?.len();
        let mut part = Self { path, file, bytes };
        if bytes > of.bytes {
            part.clear()?;
        }
        let end = part.file.seek(std::io::SeekFrom::End(0));
        end.map_err(Error::io(&part.path))?;
        Ok(part)
    }

    fn add(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io(&self.path))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        self.bytes = 0;
        let cleared = self.file.set_len(0).and_then(|()| self.file.rewind());
        cleared.map_err(Error::io(&self.path))
    }

    fn sha256(&mut self) -> Result<String> {
        input::sha256(&self.path, "a part of a download")
    }

    /// Becomes the file.
    fn finish(self, target: &Path) -> Result<()> {
        drop(self.file);
        put_in_place(&self.path, target)
    }

    /// Stays for the next time, if there is anything in it.
    fn leave(self) -> Result<Option<(PathBuf, u64)>> {
        let Self { path, file, bytes } = self;
        drop(file);
        if bytes == 0 {
            smoothcnn::fs::remove(&path)?;
        }
        Ok((bytes > 0).then_some((path, bytes)))
    }
}

impl Published {
    /// What it looks like.
    fn seems(&self) -> String {
        format!("{} bytes with SHA-256 {}…", self.bytes, &self.sha256[..12])
    }
}

/// Whether the file at `path` is there, and is the published one.
pub fn is_whole(path: &Path, file: &Published) -> Result<bool> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() && found.len() == file.bytes => {
            Ok(input::sha256(path, "a file of data")? == file.sha256)
        }
        _ => Ok(false),
    }
}

/// What a file looks like that is none that is expected.
fn seems(path: &Path) -> Result<String> {
    let expected = "a file, or nothing";
    let bytes = input::open(path, expected)?.metadata().map_err(Error::io(path))?.len();
    Ok(format!("{bytes} bytes with SHA-256 {}…", &input::sha256(path, expected)?[..12]))
}
