// alone: each thread writes its unit of both sides. The kernel defines `written`.

fn write_unit(place: Place, unit: u32, local: u32) {
    if place.inside {
        let run = written(place.run);
        key_write(place, run, unit);
        value_write(place, run, unit);
    }
}
