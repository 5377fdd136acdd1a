/** Text over many lines in YAML (`|`, `>`): where it begins, and how deep it stands. */

const HEADER =
  /^(?<indent> *)(?<dashes>(?:- +)*)(?<key>[^\s#'"{[][^#]*?: +)?(?:[&!]\S+ +)?[|>][-+0-9]*\s*(?:#.*)?$/;

/**
 * Return the column that the text below *line* must stand right of; null if *line* begins none.
 *
 * `commands: |` gives 0, `  - |` gives 2, `  - run: |` gives 4.
 */
export function scalarBelow(line: string): number | null {
  const found = HEADER.exec(line)?.groups;
  if (!found || !(found.key || found.dashes)) {
    return null;
  }
  return found.key
    ? found.indent.length + found.dashes.length
    : found.indent.length + found.dashes.lastIndexOf('-');
}
