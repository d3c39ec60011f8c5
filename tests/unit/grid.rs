//! Blocks and grids, without a GPU.

use super::*;
use crate::DeviceError;

#[test]
fn blocks_are_cut_until_they_fit_and_cover_everything_once() {
    for (planes, tokens, most) in [(0..7u32, 0..5u32, 8u32), (3..4, 0..100, 9), (2..60, 4..5, 1), (0..5, 0..5, 1)] {
        for by_tokens in [false, true] {
            let fits = |block: &Block| (block.planes.len() * block.tokens.len()) as u32 <= most;
            let mut parts = Vec::new();
            split(Block { planes: planes.clone(), tokens: tokens.clone() }, &fits, &|_| by_tokens, &mut parts).unwrap();
            assert!(parts.iter().all(fits));
            let mut cells: Vec<_> = parts
                .iter()
                .flat_map(|part| {
                    part.planes.clone().flat_map(|plane| part.tokens.clone().map(move |token| (plane, token)))
                })
                .collect();
            cells.sort_unstable();
            let all: Vec<_> =
                planes.clone().flat_map(|plane| tokens.clone().map(move |token| (plane, token))).collect();
            assert_eq!(cells, all);
        }
    }
    assert_eq!(split(Block { planes: 0..4, tokens: 0..4 }, &|_| false, &|_| true, &mut Vec::new()), None);
}

#[test]
fn tokens_are_cut_only_where_asked_or_in_a_single_plane() {
    let fits = |block: &Block| block.planes.len() * block.tokens.len() <= 6;
    let mut parts = Vec::new();
    split(Block { planes: 0..2, tokens: 0..12 }, &fits, &|_| false, &mut parts).unwrap();
    let expected = |planes: Range<u32>, tokens: Range<u32>| Block { planes, tokens };
    assert_eq!(parts, [expected(0..1, 0..6), expected(0..1, 6..12), expected(1..2, 0..6), expected(1..2, 6..12)]);
    let mut parts = Vec::new();
    split(Block { planes: 0..2, tokens: 0..6 }, &fits, &|_| true, &mut parts).unwrap();
    assert_eq!(parts, [expected(0..2, 0..3), expected(0..2, 3..6)]);
}

#[test]
fn grids_hold_every_unit_within_the_limit() {
    let limits = |most| wgpu::Limits { max_compute_workgroups_per_dimension: most, ..Default::default() };
    for (units, most) in [(0, 65_535), (1, 65_535), (256, 65_535), (257, 65_535), (1 << 31, 65_535), (10_000, 7)] {
        let [x, y, z] = grid(units, &limits(most)).unwrap();
        assert_eq!(grid_of_planes(units, 3, &limits(most)), Ok([x, 3, y]));
        assert!(u64::from(x) * u64::from(y) * 256 >= units, "{units}");
        assert!((1..=most).contains(&x) && (1..=most).contains(&y) && z == 1, "{units}");
    }
    assert_eq!(grid(257, &limits(65_535)), Ok([2, 1, 1]));
    assert_eq!(grid(65_535 * 256 + 1, &limits(65_535)), Ok([32_768, 2, 1]));
    let limit = "max_compute_workgroups_per_dimension";
    assert_eq!(
        grid(50 * 256, &limits(7)),
        Err(Error::Device(DeviceError::DeviceLimit { limit, needed: 8, available: 7 }))
    );
}
