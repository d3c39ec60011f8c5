// none: stands in where nothing is read, because every row of every run lies in a gap.

fn side_element(place: Place, token: u32, dim: u32) -> u32 {
    return 0u;
}
