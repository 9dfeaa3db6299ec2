//go:build tools

// Package interop holds what proves the Rust node against CometBFT's own code; this file keeps the node's own
// command among the module's dependencies.
package interop

import _ "github.com/cometbft/cometbft/cmd/cometbft/commands"
