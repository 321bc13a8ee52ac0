//! Servers that lie about their vocabulary, over real sockets: nothing of them stays on the device.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use sled_core::names::Fingerprint;
use sled_device::{Error, RemoteServer};
use sled_wire::{Bounds, VocabularyFile, WireError, pb};
use support::{CONTEXT, MODEL, VOCAB, vocabulary};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

type Outbound<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How the vocabulary is sent.
#[derive(Clone)]
enum Sending {
    /// In pieces of a kilobyte.
    All(Vec<u8>),
    /// The same piece again and again.
    Endlessly(Vec<u8>),
    /// A byte every tenth of a second.
    Dripping(Vec<u8>),
    /// These bytes, and then nothing more.
    Stopping(Vec<u8>),
}

/// A server with a description and a vocabulary.
#[derive(Clone)]
struct Liar {
    description: pb::ServerDescription,
    sending: Sending,
    asked: Arc<AtomicUsize>,
}

impl Liar {
    /// It announces `announced` and the synthetic vocabulary's fingerprint.
    fn new(announced: VocabularyFile, sending: Sending) -> Self {
        let description = sled_wire::encode_description(sled_wire::Description {
            version: "0".into(),
            name: "liar".into(),
            model: "liar".into(),
            model_fingerprint: MODEL,
            vocabulary_fingerprint: vocabulary::vocab().fingerprint(),
            vocabulary_file: announced,
            bounds: Bounds { vocabulary_size: VOCAB, context: CONTEXT, max_draft: 64 },
        });
        Self { description, sending, asked: Arc::default() }
    }

    /// Listens; the address.
    async fn serve(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let service = sled_wire::server(self.clone());
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        address
    }
}

#[tonic::async_trait]
impl sled_wire::Sled for Liar {
    type VocabularyStream = Outbound<pb::VocabularyChunk>;
    type SessionStream = Outbound<pb::ServerMessage>;

    async fn describe(&self, _: Request<pb::DescribeRequest>) -> Result<Response<pb::ServerDescription>, Status> {
        Ok(Response::new(self.description.clone()))
    }

    async fn vocabulary(&self, _: Request<pb::VocabularyRequest>) -> Result<Response<Self::VocabularyStream>, Status> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let chunk = |data: Vec<u8>| Ok(pb::VocabularyChunk { data: data.into() });
        let chunks = |file: Vec<u8>| file.chunks(1024).map(<[u8]>::to_vec).map(chunk).collect::<Vec<_>>();
        Ok(Response::new(match self.sending.clone() {
            Sending::All(file) => Box::pin(tokio_stream::iter(chunks(file))),
            Sending::Endlessly(piece) => {
                Box::pin(tokio_stream::iter(std::iter::repeat_with(move || chunk(piece.clone()))))
            }
            Sending::Dripping(file) => {
                let bytes = tokio_stream::iter(file).map(move |byte| chunk(vec![byte]));
                Box::pin(bytes.throttle(Duration::from_millis(100)))
            }
            Sending::Stopping(file) => Box::pin(tokio_stream::iter(chunks(file)).chain(tokio_stream::pending())),
        }))
    }

    async fn sessions(&self, _: Request<pb::SessionsRequest>) -> Result<Response<pb::SessionList>, Status> {
        Err(Status::unimplemented("no sessions"))
    }

    async fn session(&self, _: Request<Streaming<pb::DeviceMessage>>) -> Result<Response<Self::SessionStream>, Status> {
        Err(Status::unimplemented("no sessions"))
    }
}

/// A folder for vocabularies in a folder where nothing else is to appear.
struct Home {
    root: tempfile::TempDir,
    folder: PathBuf,
}

impl Home {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("deep").join("vocabularies");
        fs::create_dir_all(&folder).unwrap();
        Self { root, folder }
    }

    /// All files below the root.
    fn files(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path, files) } else { files.push(path) }
            }
        }
        let mut files = Vec::new();
        walk(self.root.path(), &mut files);
        files
    }
}

async fn obtain(address: &str, home: &Home) -> Result<Fingerprint, Error> {
    let remote = RemoteServer::connect(address).await?;
    vocabulary::kept_in(&home.folder).obtain(&remote).await.map(|vocab| vocab.fingerprint())
}

#[tokio::test]
async fn a_fingerprint_that_is_a_path_is_refused_and_nothing_is_written() {
    let file = vocabulary::file();
    for name in ["../../stolen", "../victim", "/tmp/sled-stolen", "0123456789ABCDEF", "0123456789abcdef/x", ""] {
        for field in 0..2 {
            let home = Home::new();
            let mut liar = Liar::new(VocabularyFile::of(&file), Sending::All(file.clone()));
            match field {
                0 => liar.description.model_fingerprint = name.to_owned(),
                _ => liar.description.vocabulary_fingerprint = name.to_owned(),
            }
            let refusal = obtain(&liar.serve().await, &home).await;
            assert!(matches!(refusal, Err(Error::Wire(WireError::WrongFingerprint { .. }))), "{name}: {refusal:?}");
            assert_eq!(home.files(), Vec::<PathBuf>::new(), "{name}");
            assert_eq!(liar.asked.load(Ordering::SeqCst), 0);
        }
    }
}

#[tokio::test]
async fn a_vocabulary_that_is_not_the_announced_one_leaves_nothing_behind() {
    let file = vocabulary::file();
    let announced = VocabularyFile::of(&file);
    let mut damaged = file.clone();
    damaged[100] ^= 1;
    let cases = [
        Sending::All(damaged),
        Sending::All(file[..file.len() - 1].to_vec()),
        Sending::All([file.clone(), vec![0]].concat()),
        Sending::All(vec![]),
        Sending::Endlessly(vec![7; 1000]),
        Sending::Endlessly(vec![]),
    ];
    for sending in cases {
        let home = Home::new();
        let refusal = obtain(&Liar::new(announced, sending).serve().await, &home).await;
        assert!(matches!(refusal, Err(Error::Wire(WireError::OtherVocabularyFile))), "{refusal:?}");
        assert_eq!(home.files(), Vec::<PathBuf>::new());
    }
    // An announced one that is too large is not asked for.
    let large = VocabularyFile { bytes: sled_wire::MAX_VOCABULARY_BYTES + 1, ..announced };
    let refusal = obtain(&Liar::new(large, Sending::Endlessly(vec![7; 1000])).serve().await, &Home::new()).await;
    assert!(matches!(refusal, Err(Error::Wire(WireError::VocabularyTooLarge { .. }))), "{refusal:?}");
}

#[tokio::test]
async fn an_announced_file_that_is_no_vocabulary_leaves_nothing_behind() {
    let garbage = vec![b'x'; 5000];
    let home = Home::new();
    let refusal = obtain(&Liar::new(VocabularyFile::of(&garbage), Sending::All(garbage)).serve().await, &home).await;
    assert!(matches!(refusal, Err(Error::UnreadableVocabulary(_))), "{refusal:?}");
    let file = vocabulary::file();
    let mut liar = Liar::new(VocabularyFile::of(&file), Sending::All(file));
    liar.description.vocabulary_fingerprint = Fingerprint::new(1).to_string();
    let refusal = obtain(&liar.serve().await, &home).await;
    assert!(matches!(refusal, Err(Error::VocabularyMismatch { .. })), "{refusal:?}");
    assert_eq!(home.files(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_vocabulary_that_drips_is_given_up() {
    let file = vocabulary::file();
    let large = VocabularyFile { bytes: 60 << 20, ..VocabularyFile::of(&file) };
    let give_up = async |sending| {
        let home = Home::new();
        let address = Liar::new(large, sending).serve().await;
        let refusal = tokio::time::timeout(Duration::from_secs(60), obtain(&address, &home)).await.expect("it ends");
        assert!(matches!(refusal, Err(Error::SlowVocabulary)), "{refusal:?}");
        assert_eq!(home.files(), Vec::<PathBuf>::new());
    };
    tokio::join!(give_up(Sending::Dripping(vec![0; 100_000])), give_up(Sending::Stopping(file)));
}

#[tokio::test]
async fn nothing_is_written_before_all_is_there() {
    let file = vocabulary::file();
    let half = file[..file.len() / 2].to_vec();
    let liar = Liar::new(VocabularyFile::of(&file), Sending::Stopping(half));
    let remote = RemoteServer::connect(&liar.serve().await).await.unwrap();
    let home = Home::new();
    let vocabularies = vocabulary::kept_in(&home.folder);
    let obtaining = vocabularies.obtain(&remote);
    // As if its user had lost patience.
    assert!(tokio::time::timeout(Duration::from_millis(300), obtaining).await.is_err());
    assert_eq!(liar.asked.load(Ordering::SeqCst), 1);
    assert_eq!(home.files(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_good_vocabulary_is_kept_under_its_checksum_and_asked_for_once() {
    let file = vocabulary::file();
    let announced = VocabularyFile::of(&file);
    let liar = Liar::new(announced, Sending::All(file.clone()));
    let address = liar.serve().await;
    let home = Home::new();
    // A process that was killed left this; another one is at work; and the rest is not ours.
    let (abandoned, fresh, other) =
        (home.folder.join(".tmpABCDEF"), home.folder.join(".tmp123456"), home.folder.join("notes.txt"));
    for path in [&abandoned, &fresh, &other] {
        fs::write(path, "x").unwrap();
    }
    for path in [&abandoned, &other] {
        let then = SystemTime::now() - Duration::from_secs(3600);
        File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
    }
    for _ in 0..2 {
        assert_eq!(obtain(&address, &home).await.unwrap(), vocabulary::vocab().fingerprint());
    }
    assert_eq!(liar.asked.load(Ordering::SeqCst), 1);
    let kept = home.folder.join(format!("{}.gguf", announced.checksum));
    assert_eq!(fs::read(&kept).unwrap(), file);
    let mut files = home.files();
    files.sort();
    let mut expected = vec![kept.clone(), fresh, other];
    expected.sort();
    assert_eq!(files, expected);
    // A file that was damaged is obtained anew.
    fs::write(&kept, &file[..100]).unwrap();
    assert_eq!(obtain(&address, &home).await.unwrap(), vocabulary::vocab().fingerprint());
    assert_eq!((liar.asked.load(Ordering::SeqCst), fs::read(&kept).unwrap()), (2, file));
}
