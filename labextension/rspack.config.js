// What is ours of the bundler's configuration: sheets and scripts are made small. The names of
// properties stay: one made short may be one that a class of Lab's has. The rest is
// @jupyter/builder's.
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
          mangle: true
        }
      })
    ]
  }
};
