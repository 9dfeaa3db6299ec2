// Sdkapp is a minimal Cosmos SDK chain: the SDK's own modules, and nothing of its own but three doors for tests.
//
// `app_state.plan` of the genesis file, `{"name": "v2", "height": 40}`, schedules an upgrade at the chain's start. The variable
// SDKAPP_UPGRADE=v2 makes this binary the one that the upgrade asks for. `make-chain` makes blocks of many validators.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	dbm "github.com/cosmos/cosmos-db"
	"github.com/spf13/cobra"

	appv1alpha1 "cosmossdk.io/api/cosmos/app/v1alpha1"
	upgrademodulev1 "cosmossdk.io/api/cosmos/upgrade/module/v1"
	"cosmossdk.io/depinject"
	"cosmossdk.io/depinject/appconfig"

	abci "github.com/cometbft/cometbft/abci/types"
	cmtcfg "github.com/cometbft/cometbft/config"
	"github.com/cosmos/cosmos-sdk/client"
	"github.com/cosmos/cosmos-sdk/client/config"
	"github.com/cosmos/cosmos-sdk/client/flags"
	"github.com/cosmos/cosmos-sdk/client/keys"
	"github.com/cosmos/cosmos-sdk/codec"
	codectypes "github.com/cosmos/cosmos-sdk/codec/types"
	"github.com/cosmos/cosmos-sdk/runtime"
	"github.com/cosmos/cosmos-sdk/server"
	svrcmd "github.com/cosmos/cosmos-sdk/server/cmd"
	serverconfig "github.com/cosmos/cosmos-sdk/server/config"
	servertypes "github.com/cosmos/cosmos-sdk/server/types"
	"github.com/cosmos/cosmos-sdk/testutil/configurator"
	sdk "github.com/cosmos/cosmos-sdk/types"
	"github.com/cosmos/cosmos-sdk/types/module"
	_ "github.com/cosmos/cosmos-sdk/x/auth"
	_ "github.com/cosmos/cosmos-sdk/x/auth/tx/config"
	authtypes "github.com/cosmos/cosmos-sdk/x/auth/types"
	_ "github.com/cosmos/cosmos-sdk/x/bank"
	bankcli "github.com/cosmos/cosmos-sdk/x/bank/client/cli"
	_ "github.com/cosmos/cosmos-sdk/x/consensus"
	_ "github.com/cosmos/cosmos-sdk/x/distribution"
	"github.com/cosmos/cosmos-sdk/x/genutil"
	genutilcli "github.com/cosmos/cosmos-sdk/x/genutil/client/cli"
	genutiltypes "github.com/cosmos/cosmos-sdk/x/genutil/types"
	_ "github.com/cosmos/cosmos-sdk/x/mint"
	_ "github.com/cosmos/cosmos-sdk/x/staking"
)

var home = os.ExpandEnv("$HOME/.sdkapp")

// further adds the commands that not every version has.
var further []func(*cobra.Command, module.BasicManager, codec.Codec)

func upgradeModule(config *configurator.Config) {
	config.ModuleConfigs["upgrade"] = &appv1alpha1.ModuleConfig{
		Name:   "upgrade",
		Config: appconfig.WrapAny(&upgrademodulev1.Module{}),
	}
}

func modules() depinject.Config {
	return configurator.NewAppConfig(configurator.AuthModule(), configurator.BankModule(), configurator.StakingModule(),
		configurator.TxModule(), configurator.ConsensusModule(), configurator.GenutilModule(), configurator.MintModule(),
		configurator.DistributionModule(), upgradeModule,
		configurator.WithCustomPreBlockersOrder("upgrade", "auth"))
}

func newApp(logger Logger, db dbm.DB, opts servertypes.AppOptions) servertypes.Application {
	var builder *runtime.AppBuilder
	var upgrades *UpgradeKeeper
	if err := depinject.Inject(depinject.Configs(modules(), depinject.Supply(logger, opts)), &builder, &upgrades); err != nil {
		panic(err)
	}
	app := build(builder, db, server.DefaultBaseappOptions(opts))
	if name := os.Getenv("SDKAPP_UPGRADE"); name != "" {
		upgrades.SetUpgradeHandler(name, func(_ context.Context, _ Plan, versions module.VersionMap) (module.VersionMap, error) {
			return versions, nil
		})
	}
	app.SetInitChainer(func(ctx sdk.Context, req *abci.RequestInitChain) (*abci.ResponseInitChain, error) {
		answer, err := app.InitChainer(ctx, req)
		if err != nil {
			return nil, err
		}
		return answer, schedule(ctx, upgrades, req.AppStateBytes)
	})
	if err := app.Load(true); err != nil {
		panic(err)
	}
	return app
}

// schedule does what a vote of the governance module would do later.
func schedule(ctx sdk.Context, upgrades *UpgradeKeeper, state []byte) error {
	var genesis struct {
		Plan *struct {
			Name   string `json:"name"`
			Height int64  `json:"height"`
		} `json:"plan"`
	}
	if err := json.Unmarshal(state, &genesis); err != nil || genesis.Plan == nil {
		return err
	}
	return upgrades.ScheduleUpgrade(ctx, Plan{Name: genesis.Plan.Name, Height: genesis.Plan.Height})
}

func main() {
	var (
		registry codectypes.InterfaceRegistry
		cdc      codec.Codec
		txConfig client.TxConfig
		amino    *codec.LegacyAmino
		basics   module.BasicManager
	)
	if err := depinject.Inject(depinject.Configs(modules(), depinject.Supply(NewNopLogger())),
		&registry, &cdc, &txConfig, &amino, &basics); err != nil {
		panic(err)
	}
	basics[genutiltypes.ModuleName] = genutil.NewAppModuleBasic(genutiltypes.DefaultMessageValidator)
	ctx := client.Context{}.WithCodec(cdc).WithInterfaceRegistry(registry).WithTxConfig(txConfig).WithLegacyAmino(amino).
		WithInput(os.Stdin).WithAccountRetriever(authtypes.AccountRetriever{}).WithHomeDir(home).WithViper("")
	root := &cobra.Command{Use: "sdkapp", SilenceErrors: true, PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
		ctx, err := client.ReadPersistentCommandFlags(ctx.WithCmdContext(cmd.Context()), cmd.Flags())
		if err != nil {
			return err
		}
		if ctx, err = config.ReadFromClientConfig(ctx); err != nil {
			return err
		}
		if err = client.SetCmdClientContextHandler(ctx, cmd); err != nil {
			return err
		}
		settings := serverconfig.DefaultConfig()
		settings.MinGasPrices = "0stake"
		return server.InterceptConfigsPreRunHandler(cmd, serverconfig.DefaultConfigTemplate, settings, cmtcfg.DefaultConfig())
	}}
	tx := &cobra.Command{Use: "tx"}
	tx.PersistentFlags().String(flags.FlagChainID, "", "chain id")
	tx.AddCommand(bankcli.NewTxCmd(txConfig.SigningContext().AddressCodec()))
	root.AddCommand(genutilcli.InitCmd(basics, home), genutilcli.Commands(txConfig, basics, home), keys.Commands(), tx)
	addServer(root)
	for _, add := range further {
		add(root, basics, cdc)
	}
	if err := svrcmd.Execute(root, "", home); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
