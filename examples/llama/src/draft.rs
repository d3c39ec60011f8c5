//! Drafts by prompt look-up (Saxena, "Prompt Lookup Decoding", 2023): what followed the last tokens when they were
//! there before is a guess at what follows now. No second model is needed.

/// Tokens that must be there twice, at most and at least.
const LENGTHS: [usize; 2] = [3, 1];

/// Up to `most` tokens that may come next.
pub fn look_up(tokens: &[u32], most: usize) -> &[u32] {
    let [longest, shortest] = LENGTHS;
    for length in (shortest..=longest.min(tokens.len().saturating_sub(1))).rev() {
        let last = &tokens[tokens.len() - length..];
        let before = &tokens[..tokens.len() - 1];
        if let Some(start) = before.windows(length).rposition(|window| window == last) {
            let guess = &tokens[start + length..];
            return &guess[..guess.len().min(most)];
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::look_up;

    #[test]
    fn the_longest_and_then_the_latest_repetition_counts() {
        assert_eq!(look_up(&[1, 2, 3, 9, 2, 3, 8, 1, 2, 3], 2), [9, 2]);
        assert_eq!(look_up(&[5, 7, 5, 8, 5], 4), [8, 5]);
        assert_eq!(look_up(&[4, 4], 4), [4]);
        assert!(look_up(&[1, 2, 3], 4).is_empty());
        assert!(look_up(&[], 4).is_empty());
    }
}
