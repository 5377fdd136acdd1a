/** How machines are grouped in their section. Pure. */
import { IMachineRow } from '../records';

/** Return the machines by their fleets; those in none come first, under no name. */
export function fleetsOf(
  machines: readonly IMachineRow[]
): Map<string, IMachineRow[]> {
  const fleets = new Map<string, IMachineRow[]>();
  const ordered = [...machines].sort(
    (one, other) =>
      (one.fleet ?? '').localeCompare(other.fleet ?? '') ||
      one.number - other.number
  );
  for (const row of ordered) {
    const name = row.fleet ?? '';
    fleets.set(name, [...(fleets.get(name) ?? []), row]);
  }
  return fleets;
}
