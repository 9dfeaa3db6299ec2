//go:build v038

package main

import (
	"fmt"
	"io"

	dbm "github.com/cosmos/cosmos-db"
	"github.com/spf13/cobra"

	"cosmossdk.io/log"

	_ "cosmossdk.io/x/upgrade"
	"cosmossdk.io/x/upgrade/keeper"
	"cosmossdk.io/x/upgrade/types"
	"github.com/cosmos/cosmos-sdk/baseapp"
	"github.com/cosmos/cosmos-sdk/runtime"
	"github.com/cosmos/cosmos-sdk/server"
	servertypes "github.com/cosmos/cosmos-sdk/server/types"
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
	return builder.Build(db, nil, options...)
}

// addServer adds the commands that run a node. Versions before 0.55 give a writer for traces along.
func addServer(root *cobra.Command) {
	create := func(logger Logger, db dbm.DB, _ io.Writer, opts servertypes.AppOptions) servertypes.Application {
		return newApp(logger, db, opts)
	}
	export := func(Logger, dbm.DB, io.Writer, int64, bool, []string, servertypes.AppOptions, []string) (servertypes.ExportedApp, error) {
		return servertypes.ExportedApp{}, fmt.Errorf("sdkapp exports no state")
	}
	server.AddCommands(root, home, create, export, func(*cobra.Command) {})
}
