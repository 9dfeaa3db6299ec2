//go:build !v038

package main

import (
	"fmt"

	dbm "github.com/cosmos/cosmos-db"
	"github.com/spf13/cobra"

	"cosmossdk.io/log/v2"

	"github.com/cosmos/cosmos-sdk/baseapp"
	"github.com/cosmos/cosmos-sdk/runtime"
	"github.com/cosmos/cosmos-sdk/server"
	servertypes "github.com/cosmos/cosmos-sdk/server/types"
	_ "github.com/cosmos/cosmos-sdk/x/upgrade"
	"github.com/cosmos/cosmos-sdk/x/upgrade/keeper"
	"github.com/cosmos/cosmos-sdk/x/upgrade/types"
)

// Names that have moved between versions of the SDK.
type (
	// Logger is the SDK's.
	Logger = log.Logger
	// UpgradeKeeper is x/upgrade's.
	UpgradeKeeper = keeper.Keeper
	// Plan is x/upgrade's.
	Plan = types.Plan
)

// NewNopLogger makes a logger that is silent.
var NewNopLogger = log.NewNopLogger

// build makes the application.
func build(builder *runtime.AppBuilder, db dbm.DB, options []func(*baseapp.BaseApp)) *runtime.App {
	return builder.Build(db, options...)
}

// addServer adds the commands that run a node.
func addServer(root *cobra.Command) {
	export := func(Logger, dbm.DB, int64, bool, []string, servertypes.AppOptions, []string) (servertypes.ExportedApp, error) {
		return servertypes.ExportedApp{}, fmt.Errorf("sdkapp exports no state")
	}
	server.AddCommands(root, home, newApp, export, func(*cobra.Command) {})
}
