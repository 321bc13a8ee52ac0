//! The table by which a unigram tokeniser replaces characters: a trie as a double array of 32-bit nodes, then the replacements.

use std::collections::HashSet;

/// Whether some text would lead llama.cpp out of `table`, which it answers with an exception that nobody catches.
pub(super) fn leads_astray(table: &[u8]) -> bool {
    let Some((len, rest)) = table.split_first_chunk::<4>() else { return true };
    let len = u32::from_le_bytes(*len) as usize;
    let Some((nodes, replacements)) = rest.split_at_checked(len) else { return true };
    let nodes: Vec<u32> = nodes.as_chunks::<4>().0.iter().map(|&node| u32::from_le_bytes(node)).collect();
    // A replacement ends at a NUL.
    let ends = replacements.iter().rposition(|&byte| byte == 0).map_or(0, |last| last + 1);
    !nodes.is_empty() && Walk { nodes: &nodes, ends }.leaves()
}

struct Walk<'a> {
    nodes: &'a [u32],
    /// Where the last replacement ends.
    ends: usize,
}

impl Walk<'_> {
    /// Whether any sequence of bytes that a text can have leaves the table.
    fn leaves(&self) -> bool {
        let root = base(self.nodes[0]);
        let (mut seen, mut waiting) = (HashSet::from([root]), vec![root]);
        while let Some(place) = waiting.pop() {
            for byte in (1..=0xf4).filter(|byte| !(0xc0..=0xc1).contains(byte)) {
                let child = place ^ byte;
                let Some(&node) = self.nodes.get(child as usize) else { return true };
                if node & ((1 << 31) | 0xff) != byte {
                    continue;
                }
                let next = child ^ base(node);
                if (node >> 8) & 1 == 1 {
                    let Some(value) = self.nodes.get(next as usize) else { return true };
                    if (value & !(1 << 31)) as usize >= self.ends {
                        return true;
                    }
                }
                if seen.insert(next) {
                    waiting.push(next);
                }
            }
        }
        false
    }
}

/// By what a node's number differs from those of its children, apart from their bytes.
fn base(node: u32) -> u32 {
    (node >> 10) << ((node & (1 << 9)) >> 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of so many nodes, some of which are given, that replaces by `replacements`.
    fn table(nodes: usize, given: &[(usize, u32)], replacements: &[u8]) -> Vec<u8> {
        let mut all = vec![0u32; nodes];
        given.iter().for_each(|&(at, node)| all[at] = node);
        let nodes: Vec<u8> = all.into_iter().flat_map(u32::to_le_bytes).collect();
        [&u32::try_from(nodes.len()).unwrap_or_default().to_le_bytes(), &nodes[..], replacements].concat()
    }

    #[test]
    fn a_table_that_no_text_leaves_is_fine() {
        assert!(!leads_astray(&table(256, &[], b"\0")));
        // "a" becomes the text at 2: the node at 97 is its leaf, and its value is 256 further.
        let a_leaf = 97 | 1 << 8 | 256 << 10;
        assert!(!leads_astray(&table(512, &[(97, a_leaf), (97 ^ 256, 2)], b"x\0y\0")));
    }

    #[test]
    fn a_table_that_a_text_leaves_is_found() {
        assert!(leads_astray(&[]));
        assert!(leads_astray(&[255, 0, 0, 0, 0]));
        assert!(leads_astray(&table(128, &[], b"\0")), "beyond ASCII");
        assert!(leads_astray(&table(256, &[(0, 1 << 30)], b"\0")), "at once");
        assert!(leads_astray(&table(256, &[(97, 97 | 256 << 10)], b"\0")), "after an a");
        let a_leaf = 97 | 1 << 8 | 256 << 10;
        assert!(leads_astray(&table(512, &[(97, a_leaf), (97 ^ 256, 4)], b"x\0y\0")), "no such replacement");
        assert!(leads_astray(&table(512, &[(97, a_leaf), (97 ^ 256, 2)], b"x\0y")), "one without an end");
    }
}
