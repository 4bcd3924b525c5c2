//! Downloads from a server on this machine that does what servers do wrong.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use smoothcnn::data::source::DataKind;
use tempfile::{TempDir, tempdir};

use super::*;

/// What the server has, and what the download expects.
fn content() -> Vec<u8> {
    (0..300_000_u64).map(|i| (i * i / 7) as u8).collect()
}

/// Of [`content`].
const FILE: Published = Published {
    name: "file.gz",
    bytes: 300_000,
    sha256: "7f350c62e360b82a9a488576882567364fc526a2a8757653fb19abe74562ea3d",
};

/// Answers a request whose `Range` begins at this byte.
type Answer = Box<dyn FnMut(TcpStream, Option<u64>) + Send>;

/// A server that gives each answer in turn, and the last one again and again; and the ranges that it was asked for.
fn server(mut answers: Vec<Answer>) -> (String, Arc<Mutex<Vec<Option<u64>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/some/folder/", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(vec![]));
    let requests = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let mut range = None;
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            assert_eq!(lines.next().unwrap().unwrap(), "GET /some/folder/file.gz HTTP/1.1");
            for line in lines.map_while(|line| line.ok().filter(|line| !line.is_empty())) {
                if let Some(start) = line.to_lowercase().strip_prefix("range: bytes=") {
                    range = Some(start.trim_end_matches('-').parse().unwrap());
                }
            }
            requests.lock().unwrap().push(range);
            answers[0](stream, range);
            if answers.len() > 1 {
                drop(answers.remove(0));
            }
        }
    });
    (url, asked)
}

fn send(mut stream: TcpStream, head: &str, body: &[u8]) {
    // Whoever asked may be gone.
    let _ = stream.write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes());
    let _ = stream.write_all(body);
}

/// All of `bytes`, or the rest of it as a good server gives it; the connection ends after `sent` bytes.
fn serve(bytes: Vec<u8>, sent: usize) -> Answer {
    Box::new(move |stream, range| {
        let all = bytes.len();
        let start = range.unwrap_or(0) as usize;
        if start >= all {
            return send(stream, "416 Range Not Satisfiable\r\nContent-Length: 0", b"");
        }
        let head = match range {
            None => format!("200 OK\r\nContent-Length: {all}"),
            Some(_) => format!(
                "206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{all}",
                all - start,
                all - 1
            ),
        };
        send(stream, &head, &bytes[start..all.min(start + sent)]);
    })
}

fn good() -> Answer {
    serve(content(), usize::MAX / 2)
}

/// Without a word about `Range`.
fn ignores_range(bytes: Vec<u8>) -> Answer {
    Box::new(move |stream, _| send(stream, &format!("200 OK\r\nContent-Length: {}", bytes.len()), &bytes))
}

fn says(head: &'static str) -> Answer {
    Box::new(move |stream, _| send(stream, head, b""))
}

/// A download into a folder of its own.
struct Case {
    dir: TempDir,
    notes: Mutex<Vec<String>>,
}

impl Case {
    fn new() -> Self {
        Self { dir: tempdir().unwrap(), notes: Mutex::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("to").join(name)
    }

    fn with_part(bytes: &[u8]) -> Self {
        let case = Self::new();
        std::fs::create_dir(case.path("")).unwrap();
        std::fs::write(case.path("file.gz.part"), bytes).unwrap();
        case
    }

    fn run(&self, mirrors: &[&str]) -> Result<Outcome> {
        let [connect, silence, pause] = [2000, 300, 1].map(std::time::Duration::from_millis);
        let patience = Patience { connect, silence, pause, attempts: 2 };
        let folder = self.path("");
        let download = Download { file: &FILE, mirrors, folder: &folder, patience: &patience };
        download.run(&|done| assert!(done <= FILE.bytes), &|line| self.notes.lock().unwrap().push(line.into()))
    }

    /// The file is there and whole, and nothing else is.
    fn fetches(&self, mirrors: &[&str]) {
        assert_eq!(self.run(mirrors).unwrap(), Outcome::Fetched);
        assert!(std::fs::read(self.path("file.gz")).unwrap() == content());
        assert_eq!(self.files(), ["file.gz"]);
    }

    /// The message, with the exit code that it ends with; the file is not there.
    fn fails(&self, mirrors: &[&str], code: u8) -> String {
        let error = self.run(mirrors).unwrap_err();
        let message = error.to_string();
        assert_eq!(error.exit_code(), code, "{message}");
        assert!(!message.contains('\n') && !self.path("file.gz").exists(), "{message}");
        message
    }

    fn files(&self) -> Vec<String> {
        let names = smoothcnn::fs::names(&self.path("")).unwrap();
        names.into_iter().map(|name| name.display().to_string()).collect()
    }
}

#[test]
fn a_file_is_fetched_once_and_then_there() {
    let (url, asked) = server(vec![good()]);
    let case = Case::new();
    case.fetches(&[&url]);
    assert_eq!(case.run(&[&url]).unwrap(), Outcome::AlreadyThere);
    assert_eq!(*asked.lock().unwrap(), [None]);
}

/// Catches a file of the user's that is replaced, and a request although nothing could come of it.
#[test]
fn another_file_at_its_place_stays() {
    let (url, asked) = server(vec![good()]);
    let case = Case::with_part(b"");
    std::fs::write(case.path("file.gz"), "mine").unwrap();
    let message = case.run(&[&url]).unwrap_err().to_string();
    let expected = "found 4 bytes with SHA-256 3fd30542fe3f…, expected 300000 bytes with SHA-256 ";
    assert!(message.contains(expected) && message.ends_with("it is left as it is: move it away"), "{message}");
    assert_eq!(std::fs::read(case.path("file.gz")).unwrap(), b"mine");
    std::fs::remove_file(case.path("file.gz")).unwrap();
    std::fs::create_dir(case.path("file.gz")).unwrap();
    let message = case.run(&[&url]).unwrap_err().to_string();
    assert!(message.ends_with("found a folder, expected a file, or nothing"), "{message}");
    assert!(asked.lock().unwrap().is_empty());
}

#[test]
fn what_breaks_off_goes_on_where_it_was() {
    // Twice in the middle of one download, which asks for the rest.
    let (url, asked) = server(vec![serve(content(), 100_000), serve(content(), 50_000), good()]);
    let case = Case::new();
    case.fetches(&[&url]);
    assert_eq!(*asked.lock().unwrap(), [None, Some(100_000), Some(150_000)]);
    let notes = case.notes.lock().unwrap();
    assert!(notes[0].contains("found 100000 of 300000 bytes, then ") && notes.len() == 2, "{notes:?}");

    // In another process, before this one.
    let (url, asked) = server(vec![good()]);
    Case::with_part(&content()[..123_456]).fetches(&[&url]);
    assert_eq!(*asked.lock().unwrap(), [Some(123_456)]);
    // All of it had come.
    let (url, asked) = server(vec![good()]);
    Case::with_part(&content()).fetches(&[&url]);
    assert!(asked.lock().unwrap().is_empty());
}

#[test]
fn what_breaks_off_for_good_is_kept() {
    let (url, _) = server(vec![serve(content(), 1000), serve(content(), 0)]);
    let case = Case::new();
    let message = case.fails(&[&url], 1);
    let part = case.path("file.gz.part").display().to_string();
    assert!(message.starts_with(&format!("{url}file.gz: found 1000 of 300000 bytes, then ")), "{message}");
    assert!(message.ends_with(&format!("1000 bytes are kept in {part}: start again to go on")), "{message}");
    assert!(std::fs::read(&part).unwrap() == content()[..1000]);
    let (url, asked) = server(vec![good()]);
    case.fetches(&[&url]);
    assert_eq!(*asked.lock().unwrap(), [Some(1000)]);
}

#[test]
fn a_server_that_ignores_range_begins_anew() {
    let (url, asked) = server(vec![ignores_range(content())]);
    Case::with_part(&content()[..5000]).fetches(&[&url]);
    assert_eq!(*asked.lock().unwrap(), [Some(5000)]);
}

/// Catches a file that is made of parts of two.
#[test]
fn a_part_of_another_file_is_noticed() {
    for part in [vec![7; 5000], vec![7; 300_000], vec![7; 400_000]] {
        let (url, asked) = server(vec![good()]);
        let case = Case::with_part(&part);
        case.fetches(&[&url]);
        let expected: &[Option<u64>] = if part.len() == 5000 { &[Some(5000), None] } else { &[None] };
        assert_eq!(*asked.lock().unwrap(), expected);
        let notes = case.notes.lock().unwrap();
        assert!(part.len() > 300_000 || notes[0].ends_with("are not of one file; downloading it anew"), "{notes:?}");
    }
}

#[test]
fn another_file_is_refused_and_nothing_is_left() {
    let mut other = content();
    other[1234] ^= 1;
    // Of the same length; shorter and longer, as the server says; longer, which it does not say.
    let unsaid: Answer = Box::new(|stream, _| send(stream, "200 OK", &vec![7; 300_001]));
    for (answer, expected) in [
        (ignores_range(other.clone()), "found a file with SHA-256 "),
        (ignores_range(content()[..299_999].to_vec()), "found a file of 299999 bytes, expected 300000 bytes with "),
        (ignores_range(b"<html>".to_vec()), "found a file of 6 bytes, expected 300000 bytes with "),
        (unsaid, "found more than 300000 bytes, expected 300000 bytes with "),
    ] {
        let (url, asked) = server(vec![answer]);
        let case = Case::new();
        let message = case.fails(&[&url], 4);
        assert!(message.starts_with(&format!("{url}file.gz: {expected}")), "{message}");
        assert_eq!((case.files(), asked.lock().unwrap().len()), (vec![], 1));
    }
    // After a part of it, whosever, all is asked for once more, and not for ever.
    let (url, asked) = server(vec![serve(other, 300_000)]);
    let case = Case::with_part(&content()[..99]);
    assert!(case.fails(&[&url], 4).contains("found a file with SHA-256 "));
    assert_eq!((*asked.lock().unwrap()).clone(), [Some(99), None]);
    assert_eq!(case.files(), Vec::<String>::new());
}

#[test]
fn a_server_that_lies_about_the_length_does_no_harm() {
    // It promises all and sends a little; sends a little without a promise.
    let short: Answer = Box::new(|stream, _| send(stream, "200 OK", &content()[..10]));
    for (answer, expected) in [
        (serve(content(), 0), "found 0 of 300000 bytes, then "),
        (short, "found 10 bytes, then the end, expected 300000"),
    ] {
        let (url, _) = server(vec![answer]);
        let message = Case::new().fails(&[&url], 1);
        assert!(message.contains(expected), "{message}");
    }
    // The rest of something else.
    for range in ["bytes 7-299999/300000", "bytes */300000", "nonsense", "bytes 5000-5999/6000"] {
        let head = format!("206 Partial Content\r\nContent-Length: 1000\r\nContent-Range: {range}");
        let lies: Answer = Box::new(move |stream, _| send(stream, &head, &[0; 1000]));
        let (url, asked) = server(vec![lies, good()]);
        let case = Case::with_part(&content()[..5000]);
        if range.ends_with("6000") {
            assert!(case.fails(&[&url], 4).contains("found a file of 6000 bytes"), "{range}");
        } else {
            case.fetches(&[&url]);
            assert_eq!(*asked.lock().unwrap(), [Some(5000), None], "{range}");
        }
    }
}

#[test]
fn mirrors_are_asked_one_after_the_other() {
    let (missing, asked_missing) = server(vec![says("404 Not Found\r\nContent-Length: 0")]);
    let (busy, asked_busy) = server(vec![says("503 Busy\r\nContent-Length: 0")]);
    let silent: Answer = Box::new(|stream, _| {
        std::thread::sleep(std::time::Duration::from_secs(2));
        drop(stream);
    });
    let (silent, _) = server(vec![silent]);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let closed = format!("http://{closed}");
    let (url, _) = server(vec![good()]);
    Case::new().fetches(&[&missing, &busy, &silent, &closed, &url]);
    // What will not help is not asked for twice.
    assert_eq!((asked_missing.lock().unwrap().len(), asked_busy.lock().unwrap().len()), (1, 2));
    let message = Case::new().fails(&[&missing, &closed], 1);
    let parts = ["found HTTP status 404, expected the file; http://127.0.0.1:", "refused"];
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    // One that sends the wrong file does not keep the next from the right one.
    let (wrong, _) = server(vec![ignores_range(vec![1; 300_000])]);
    Case::new().fetches(&[&wrong, &url]);
    // One that breaks off leaves the rest to the next.
    let (breaks, _) = server(vec![serve(content(), 2000), serve(content(), 0)]);
    let (url, asked) = server(vec![good()]);
    Case::new().fetches(&[&breaks, &url]);
    assert_eq!(*asked.lock().unwrap(), [Some(2000)]);
}

/// Before the answer, and in the middle of it.
#[test]
fn a_silent_server_is_not_waited_for() {
    let begun = std::time::Instant::now();
    for bytes in [0, 1000] {
        let silent: Answer = Box::new(move |mut stream, _| {
            if bytes > 0 {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n");
                let _ = stream.write_all(&content()[..bytes]);
            }
            std::thread::sleep(std::time::Duration::from_secs(60));
        });
        let (url, _) = server(vec![silent]);
        let message = Case::new().fails(&[&url], 1);
        assert!(message.contains("timeout"), "{message}");
    }
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
}

#[test]
fn two_downloads_do_not_write_into_one_file() {
    let case = Case::with_part(b"");
    let held = std::fs::File::open(case.path("file.gz.part")).unwrap();
    held.lock().unwrap();
    let message = case.fails(&["http://127.0.0.1:1"], 1);
    assert!(message.ends_with("file.gz.part: in use by another download, expected to be alone there"), "{message}");
}

#[test]
fn sets_are_formats_and_their_sums_are_sums() {
    for set in &SETS {
        assert!(DataKind::from_name(set.name).is_some(), "{}", set.name);
        assert!(super::set(set.name).is_ok() && !set.mirrors.is_empty());
        for file in set.files {
            assert!(file.sha256.len() == 64 && file.sha256.chars().all(|c| "0123456789abcdef".contains(c)), "{file:?}");
        }
    }
    assert!(super::set("imagenet").unwrap_err().ends_with("expected one of mnist, fashion-mnist, cifar-10, cifar-100"));
}
