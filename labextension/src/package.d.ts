/** The extension's own package.json, of which only the version is asked. */
declare module '*/package.json' {
  const content: { version: string };
  export default content;
}
