//! A GGUF file taken apart and put together again, so that its header can be changed; and a tiny model to begin with.

/// The types of values, as the format numbers them.
pub const U8: u32 = 0;
pub const I8: u32 = 1;
pub const U16: u32 = 2;
pub const I16: u32 = 3;
pub const U32: u32 = 4;
pub const I32: u32 = 5;
pub const F32: u32 = 6;
pub const BOOL: u32 = 7;
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;
pub const U64: u32 = 10;
pub const I64: u32 = 11;
pub const F64: u32 = 12;

/// A value: its type and its bytes.
#[derive(Clone)]
pub struct Value {
    pub kind: u32,
    pub bytes: Vec<u8>,
}

pub fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

pub fn array(kind: u32, elements: impl IntoIterator<Item = Vec<u8>>) -> Value {
    let elements: Vec<Vec<u8>> = elements.into_iter().collect();
    let head = [&kind.to_le_bytes()[..], &(elements.len() as u64).to_le_bytes()].concat();
    Value { kind: ARRAY, bytes: [head, elements.concat()].concat() }
}

pub fn text(text: &str) -> Value {
    Value { kind: STRING, bytes: string(text) }
}

pub fn number(number: u32) -> Value {
    Value { kind: U32, bytes: number.to_le_bytes().to_vec() }
}

pub fn float(number: f32) -> Value {
    Value { kind: F32, bytes: number.to_le_bytes().to_vec() }
}

pub fn truth(truth: bool) -> Value {
    Value { kind: BOOL, bytes: vec![u8::from(truth)] }
}

/// A tensor's name and shape.
pub type Tensor = (String, Vec<u64>);

/// A file: its metadata, and its tensors, all of 32-bit floats, by name and shape.
#[derive(Clone)]
pub struct File {
    pub metadata: Vec<(String, Value)>,
    pub tensors: Vec<Tensor>,
    /// What is said to be the number of tensors and of values, if not the truth.
    pub counts: Option<(u64, u64)>,
}

impl File {
    pub fn bytes(&self) -> Vec<u8> {
        let (tensors, values) = self.counts.unwrap_or((self.tensors.len() as u64, self.metadata.len() as u64));
        let mut bytes = [&b"GGUF"[..], &3u32.to_le_bytes(), &tensors.to_le_bytes(), &values.to_le_bytes()].concat();
        for (key, value) in &self.metadata {
            bytes.extend(string(key));
            bytes.extend(value.kind.to_le_bytes());
            bytes.extend(&value.bytes);
        }
        let mut offset = 0u64;
        for (name, shape) in &self.tensors {
            bytes.extend(string(name));
            bytes.extend((shape.len() as u32).to_le_bytes());
            shape.iter().for_each(|len| bytes.extend(len.to_le_bytes()));
            bytes.extend([0u32.to_le_bytes().as_slice(), &offset.to_le_bytes()].concat());
            offset += (4 * shape.iter().product::<u64>()).next_multiple_of(32);
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        // Small numbers that differ.
        bytes.extend((0..offset / 4).flat_map(|i| ((i % 17) as f32 * 0.01 - 0.08).to_le_bytes()));
        bytes
    }

    pub fn set(&mut self, key: &str, value: Option<Value>) {
        let at = self.metadata.iter().position(|(name, _)| name == key);
        match (at, value) {
            (Some(at), Some(value)) => self.metadata[at].1 = value,
            (Some(at), None) => drop(self.metadata.remove(at)),
            (None, Some(value)) => self.metadata.push((key.to_owned(), value)),
            (None, None) => {}
        }
    }
}

const WIDTH: u64 = 32;
const INNER: u64 = 64;
const LAYERS: u64 = 2;

/// A model of two layers with the keys of SmolLM2, and a vocabulary of the 256 bytes, two merges and an end.
pub fn tiny() -> File {
    let pieces = pieces();
    let merges = ["a b", "ab a"];
    let vocabulary = pieces.len() as u64;
    let end = number(vocabulary as u32 - 1);
    let kinds = (0..vocabulary).map(|i| if i + 1 == vocabulary { 3i32 } else { 1 });
    let metadata = [
        ("general.architecture", text("llama")),
        ("general.type", text("model")),
        ("general.name", text("Tiny")),
        ("general.file_type", number(0)),
        ("general.quantization_version", number(2)),
        ("llama.block_count", number(LAYERS as u32)),
        ("llama.context_length", number(256)),
        ("llama.embedding_length", number(WIDTH as u32)),
        ("llama.feed_forward_length", number(INNER as u32)),
        ("llama.attention.head_count", number(4)),
        ("llama.attention.head_count_kv", number(2)),
        ("llama.attention.layer_norm_rms_epsilon", float(1e-5)),
        ("llama.rope.freq_base", float(10000.0)),
        ("llama.rope.dimension_count", number(8)),
        ("llama.vocab_size", number(vocabulary as u32)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        ("tokenizer.ggml.tokens", array(STRING, pieces.iter().map(|piece| string(piece)))),
        ("tokenizer.ggml.token_type", array(I32, kinds.map(|kind| kind.to_le_bytes().to_vec()))),
        ("tokenizer.ggml.merges", array(STRING, merges.map(string))),
        ("tokenizer.ggml.bos_token_id", end.clone()),
        ("tokenizer.ggml.eos_token_id", end.clone()),
        ("tokenizer.ggml.unknown_token_id", end.clone()),
        ("tokenizer.ggml.padding_token_id", end),
        ("tokenizer.ggml.add_bos_token", truth(false)),
        ("tokenizer.ggml.add_space_prefix", truth(false)),
        ("tokenizer.chat_template", text("{{ messages[0].content }}")),
    ];
    let mut tensors =
        vec![("token_embd.weight".to_owned(), vec![WIDTH, vocabulary]), ("output_norm.weight".to_owned(), vec![WIDTH])];
    for layer in 0..LAYERS {
        let of_layer = [
            ("attn_norm", vec![WIDTH]),
            ("attn_q", vec![WIDTH, WIDTH]),
            ("attn_k", vec![WIDTH, WIDTH / 2]),
            ("attn_v", vec![WIDTH, WIDTH / 2]),
            ("attn_output", vec![WIDTH, WIDTH]),
            ("ffn_norm", vec![WIDTH]),
            ("ffn_gate", vec![WIDTH, INNER]),
            ("ffn_up", vec![WIDTH, INNER]),
            ("ffn_down", vec![INNER, WIDTH]),
        ];
        tensors.extend(of_layer.map(|(name, shape)| (format!("blk.{layer}.{name}.weight"), shape)));
    }
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).to_vec();
    File { metadata, tensors, counts: None }
}

/// Bytes as GPT-2 spells them, then what is merged of them, then the end.
fn pieces() -> Vec<String> {
    let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut beyond = 256;
    let mut spell = |byte: u32| {
        let code = if printable(byte) { byte } else { beyond };
        beyond += u32::from(!printable(byte));
        char::from_u32(code).unwrap().to_string()
    };
    let mut pieces: Vec<String> = (0..256).map(&mut spell).collect();
    pieces.extend(["ab", "aba", "<|end|>"].map(str::to_owned));
    pieces
}
