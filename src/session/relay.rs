//! Pure: bytes on their way through. What can go on unchanged is remembered as a range of the buffer that it was read into
//! and written from there; only when something is inserted, left out or changed in the middle is anything copied.

use std::ops::Range;

/// What is to be written to one side, in order.
pub struct Outbox<'a> {
    input: &'a [u8],
    /// Goes out unchanged; only while `own` is empty.
    pass: Range<usize>,
    own: &'a mut Vec<u8>,
}

impl<'a> Outbox<'a> {
    /// `own` is an empty buffer to be reused.
    pub fn new(input: &'a [u8], own: &'a mut Vec<u8>) -> Outbox<'a> {
        own.clear();
        Outbox { input, pass: 0..0, own }
    }

    /// Lets a range of the input go out as it is.
    pub fn pass(&mut self, range: Range<usize>) {
        if !self.own.is_empty() {
            self.own.extend_from_slice(&self.input[range]);
        } else if self.pass.is_empty() {
            self.pass = range;
        } else if self.pass.end == range.start {
            self.pass.end = range.end;
        } else {
            let input = self.input;
            self.put().extend_from_slice(&input[range]);
        }
    }

    /// Where to append what is not in the input.
    pub fn put(&mut self) -> &mut Vec<u8> {
        if !self.pass.is_empty() {
            self.own.extend_from_slice(&self.input[self.pass.clone()]);
            self.pass = 0..0;
        }
        self.own
    }

    /// Everything, in order.
    pub fn bytes(&self) -> &[u8] {
        if self.own.is_empty() { &self.input[self.pass.clone()] } else { self.own }
    }

    /// Forgets what was to be written.
    pub fn clear(&mut self) {
        self.own.clear();
        self.pass = 0..0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order(steps in prop::collection::vec((0usize..20, 0usize..5, any::<bool>()), 0..12)) {
            let input: Vec<u8> = (0..255).collect();
            let (mut own, mut expect, mut at) = (Vec::new(), Vec::new(), 0);
            let mut outbox = Outbox::new(&input, &mut own);
            for (length, skip, insert) in steps {
                let end = (at + length).min(input.len());
                outbox.pass(at..end);
                expect.extend_from_slice(&input[at..end]);
                if insert {
                    outbox.put().extend_from_slice(b"own");
                    expect.extend_from_slice(b"own");
                }
                at = (end + skip).min(input.len());
            }
            prop_assert_eq!(outbox.bytes(), &expect[..]);
        }
    }
}
