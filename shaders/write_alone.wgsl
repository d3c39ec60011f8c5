// write_alone: each thread writes its unit of both sides. For scatter, and for advance,
// which writes gaps.

fn write_unit(plane_run: u32, unit: u32, local: u32, inside: bool) {
    let place = place_of(plane_run);
    set_length(plane_run, unit, place);
    let run = written(place.run);
    key_write(place, run, unit);
    value_write(place, run, unit);
}
