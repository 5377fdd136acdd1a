// What is ours of the bundler's configuration: sheets are made small, and so are the names of what
// is private (`_name`), which nothing outside of our classes reads. The rest is @jupyter/builder's.
const { rspack } = require('@rspack/core');

module.exports = {
  module: {
    rules: [
      {
        test: /\.css$/,
        enforce: 'pre',
        loader: 'builtin:lightningcss-loader',
        options: { minify: true }
      }
    ]
  },
  optimization: {
    minimizer: [
      new rspack.SwcJsMinimizerRspackPlugin({
        minimizerOptions: {
          compress: { passes: 3, ecma: 2020 },
          mangle: { props: { regex: '^_[a-z][A-Za-z]{2,}$', undeclared: true } }
        }
      })
    ]
  }
};
